//! The business of Tenantry, one module per noun: its types, rules and queries, its jobs and the
//! changes that stage them.
//!
//! Nouns are grouped by area. An area uses only those before it: [`access`] (rate limits),
//! [`activity`] (who did what), [`people`] (accounts and sessions), [`tenancy`] (tenants and their
//! members), [`identity`] (registration and sign-in) and [`platform`] (maintenance of the
//! installation).

pub mod access;
pub mod activity;
pub mod identity;
pub mod people;
pub mod platform;
pub mod queues;
mod schema;
pub mod tenancy;

pub use schema::{GENERATION, join, schema};
