//! The business of Tenantry, one module per noun: its types, rules and queries, its jobs and the
//! changes that stage them.
//!
//! Nouns are grouped by area: [`identity`] (accounts and sign-in), [`tenancy`] (tenants and their
//! members), [`activity`] (who did what), [`access`] (rate limits) and [`platform`] (maintenance of
//! the installation).

pub mod access;
pub mod activity;
pub mod identity;
pub mod platform;
pub mod queues;
mod schema;
pub mod tenancy;

pub use schema::{GENERATION, schema, schema_is_ready};
