//! The upkeep of the installation itself.

pub mod canary;
pub mod demo;
pub mod purge;
