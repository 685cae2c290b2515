//! Maintenance of the installation.

pub mod canary;
pub mod demo;
pub mod purge;
pub mod steering;
