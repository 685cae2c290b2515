//! Accounts, and how people sign in to them.

pub(crate) mod accounts;
pub mod actor;
pub mod devices;
pub mod email_changes;
pub mod mfa;
pub mod password_resets;
pub mod passwords;
pub mod reauthentication;
pub mod refresh;
pub mod registrations;
pub mod sessions;
pub mod sign_in;
pub mod signing_keys;
pub mod users;
