//! The upkeep of the installation itself.

pub(crate) mod canary;
pub(crate) mod purge;
