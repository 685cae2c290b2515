//! People, and how they authenticate.

pub(crate) mod email_changes;
pub(crate) mod joining;
pub(crate) mod mfa;
pub(crate) mod passkeys;
pub(crate) mod passwords;
pub(crate) mod reauthentication;
pub(crate) mod registrations;
pub(crate) mod sessions;
pub(crate) mod signing_keys;
