//! The domain of Tenantry and its store.
//!
//! One module a noun (`users`, `tenants`, `registrations`, …) holds its types, its rules and its
//! repository together. Beside them live the foundations every process shares: [`db`] (tenant
//! scope, transactions, migrations), [`config`], [`telemetry`], [`crypto`] and [`mail`].

pub mod acting;
pub mod addressee;
pub mod ambient;
pub mod audit;
pub mod config;
pub mod crypto;
pub mod custom_roles;
pub mod db;
pub mod demo;
pub mod disabling;
pub mod email;
pub mod email_changes;
pub mod former_members;
pub mod id;
pub mod internal;
pub mod invitation_lists;
pub mod invitations;
pub mod invite_links;
pub mod joining;
pub mod mail;
pub mod members;
pub mod memberships;
pub mod mfa;
pub mod networks;
pub mod ownership;
pub mod password_resets;
pub mod passwords;
pub mod places;
pub mod purge;
pub mod reauthentication;
pub mod refresh;
pub mod registrations;
pub mod revocations;
pub mod roles;
pub mod sessions;
pub mod sign_in;
pub mod telemetry;
pub mod tenant_domains;
pub mod tenant_security;
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
    Migration {
        version: 18,
        name: "signing keys",
        plan: Plan::Indexes(crypto::SIGNING_KEY_INDEXES),
    },
    Migration {
        version: 19,
        name: "members by role",
        plan: Plan::Indexes(memberships::LIST_INDEXES),
    },
    Migration { version: 20, name: "roles", plan: Plan::Indexes(custom_roles::INDEXES) },
    Migration {
        version: 21,
        name: "roles validator",
        plan: Plan::Validators(&[custom_roles::VALIDATOR]),
    },
    Migration { version: 22, name: "ownership transfers", plan: Plan::Indexes(ownership::INDEXES) },
    Migration {
        version: 23,
        name: "ownership transfers validator",
        plan: Plan::Validators(&[ownership::VALIDATOR]),
    },
    Migration { version: 24, name: "invitations", plan: Plan::Indexes(invitations::INDEXES) },
    Migration {
        version: 25,
        name: "invitations validator",
        plan: Plan::Validators(&[invitations::VALIDATOR]),
    },
    Migration {
        version: 26,
        name: "invitation lists",
        plan: Plan::Indexes(invitation_lists::INDEXES),
    },
    Migration {
        version: 27,
        name: "invitation lists validator",
        plan: Plan::Validators(&[invitation_lists::VALIDATOR]),
    },
    Migration {
        version: 28,
        name: "password resets",
        plan: Plan::Indexes(password_resets::INDEXES),
    },
    Migration {
        version: 29,
        name: "password resets validator",
        plan: Plan::Validators(&[password_resets::VALIDATOR]),
    },
    Migration { version: 30, name: "places", plan: Plan::Indexes(places::INDEXES) },
    Migration {
        version: 31,
        name: "places validator",
        plan: Plan::Validators(&[places::VALIDATOR]),
    },
    Migration { version: 32, name: "passkeys", plan: Plan::Indexes(mfa::passkeys::INDEXES) },
    Migration {
        version: 33,
        name: "second factor challenges",
        plan: Plan::Indexes(mfa::challenges::INDEXES),
    },
    Migration {
        version: 34,
        name: "second factors validators",
        plan: Plan::Validators(mfa::VALIDATORS),
    },
    Migration { version: 35, name: "email changes", plan: Plan::Several(email_changes::SCHEMA) },
    Migration {
        version: 36,
        name: "what is over lingers until it is purged",
        plan: Plan::Several(purge::SCHEMA),
    },
    Migration { version: 37, name: "invite links", plan: Plan::Several(invite_links::SCHEMA) },
    Migration { version: 38, name: "tenant domains", plan: Plan::Several(tenant_domains::SCHEMA) },
    Migration { version: 39, name: "former members", plan: Plan::Several(former_members::SCHEMA) },
];

const VALIDATORS: &[Validator] = &[
    users::VALIDATOR,
    tenants::VALIDATOR,
    memberships::VALIDATOR,
    registrations::VALIDATOR,
    sessions::VALIDATOR,
    audit::VALIDATOR,
];
