//! The domain of Tenantry and its store.
//!
//! One module a noun (`users`, `tenants`, `registrations`, …) holds its types, its rules and its
//! repository together. Beside them live the foundations every process shares: [`db`] (tenant
//! scope, transactions, migrations), [`config`], [`telemetry`], [`crypto`] and [`mail`].

pub mod addressee;
pub mod ambient;
pub mod audit;
pub mod config;
pub mod crypto;
pub mod db;
pub mod demo;
pub mod email;
pub mod id;
pub mod internal;
pub mod mail;
pub mod memberships;
pub mod networks;
pub mod password_resets;
pub mod passwords;
pub mod places;
pub mod refresh;
pub mod registrations;
pub mod revocations;
pub mod roles;
pub mod sessions;
pub mod sign_in;
pub mod telemetry;
pub mod tenants;
pub mod users;

use db::{Migration, Plan, schema::Validator};

/// The migrations of this crate's collections; those of `jobs` share one count with them
/// (`jobs::migrations`).
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "users", plan: Plan::Indexes(users::INDEXES) },
    Migration { version: 2, name: "tenants", plan: Plan::Indexes(tenants::INDEXES) },
    Migration { version: 3, name: "memberships", plan: Plan::Indexes(memberships::INDEXES) },
    Migration { version: 4, name: "registrations", plan: Plan::Indexes(registrations::INDEXES) },
    Migration { version: 5, name: "sessions", plan: Plan::Indexes(sessions::INDEXES) },
    Migration { version: 6, name: "audit events", plan: Plan::Indexes(audit::INDEXES) },
    Migration { version: 7, name: "validators", plan: Plan::Validators(VALIDATORS) },
    Migration { version: 18, name: "password resets", plan: Plan::Indexes(password_resets::INDEXES) },
    Migration { version: 19, name: "password resets validator", plan: Plan::Validators(&[password_resets::VALIDATOR]) },
    Migration { version: 20, name: "places", plan: Plan::Indexes(places::INDEXES) },
    Migration { version: 21, name: "places validator", plan: Plan::Validators(&[places::VALIDATOR]) },
];

const VALIDATORS: &[Validator] =
    &[users::VALIDATOR, tenants::VALIDATOR, memberships::VALIDATOR, registrations::VALIDATOR, sessions::VALIDATOR, audit::VALIDATOR];
