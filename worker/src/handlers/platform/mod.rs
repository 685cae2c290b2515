//! Maintenance of the installation.

pub(crate) mod canary;
pub(crate) mod purge;
