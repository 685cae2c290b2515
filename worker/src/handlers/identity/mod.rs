//! Mails about accounts and sign-ins.

pub(crate) mod email_changes;
pub(crate) mod mfa;
pub(crate) mod passwords;
pub(crate) mod registrations;
pub(crate) mod sessions;
