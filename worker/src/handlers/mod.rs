//! What jobs do, one module a noun.

pub(crate) mod registrations;
