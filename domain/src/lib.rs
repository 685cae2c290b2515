//! The business of Tenantry, one module a noun: its types, rules and queries, its job structs and
//! the changes that stage them.
//!
//! Nouns are grouped by area: [`identity`] (who somebody is), [`tenancy`] (tenants and their
//! people), [`activity`] (who did what), [`access`] (limits on what may be tried) and [`platform`]
//! (the installation's own upkeep).

pub mod access;
pub mod activity;
pub mod identity;
pub mod platform;
mod schema;
pub mod tenancy;

pub use schema::{GENERATION, schema, schema_is_ready};
