//! What jobs do, one module a noun.

pub(crate) mod maintenance;
pub(crate) mod passwords;
pub(crate) mod registrations;
pub(crate) mod sessions;
