//! How people get an account and sign in to it, and how they change its password and second factors.

pub mod accounts;
pub mod devices;
pub mod email_changes;
pub mod joining;
pub mod mail_jobs;
pub mod mfa;
pub mod password_resets;
pub mod passwords;
pub mod reauthentication;
pub mod refresh;
pub mod registrations;
pub mod sign_in;
pub mod sign_out;
pub mod signing_keys;
