//! Maintenance of the installation.

pub mod canary;
pub mod demo;
pub mod job_control;
pub mod purge;
