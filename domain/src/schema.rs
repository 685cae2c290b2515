//! The schema: every migration there is, and waiting for a database that a process may work with.

use std::time::Duration;

use common::db::{DbError, Migration, Plan, Store, schema::Validator};
use jobs::Drain;

use crate::{
    activity::audit,
    identity::{
        devices, email_changes, mfa, password_resets, registrations, sessions, signing_keys, users,
    },
    platform::purge,
    tenancy::{
        custom_roles, former_members, invitation_lists, invitations, invite_links, memberships,
        ownership, tenant_domains, tenants,
    },
};

/// The migrations of this crate's collections; those of `jobs` share one count with them
/// (`jobs::migrations`).
const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "users", plan: Plan::Indexes(users::INDEXES) },
    Migration { version: 2, name: "tenants", plan: Plan::Indexes(tenants::INDEXES) },
    Migration { version: 3, name: "memberships", plan: Plan::Indexes(memberships::INDEXES) },
    Migration { version: 4, name: "registrations", plan: Plan::Indexes(registrations::INDEXES) },
    Migration { version: 5, name: "sessions", plan: Plan::Indexes(sessions::INDEXES) },
    Migration { version: 6, name: "audit events", plan: Plan::Indexes(audit::INDEXES) },
    Migration { version: 7, name: "validators", plan: Plan::Validators(VALIDATORS) },
    Migration { version: 18, name: "signing keys", plan: Plan::Indexes(signing_keys::INDEXES) },
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
    Migration { version: 30, name: "places", plan: Plan::Indexes(devices::INDEXES) },
    Migration {
        version: 31,
        name: "places validator",
        plan: Plan::Validators(&[devices::VALIDATOR]),
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

/// Every migration there is, in order: what `api migrate` applies and every process checks.
pub fn migrations() -> Vec<Migration> {
    let mut all = [MIGRATIONS, jobs::MIGRATIONS].concat();
    all.sort_by_key(|migration| migration.version);
    all
}

/// The pause between two looks for a database that does not answer yet.
const PAUSE: Duration = Duration::from_secs(1);

/// Waits until the database answers; tells whether it did before the process was told to stop.
///
/// # Errors
/// When its schema is older or newer than `known`: nothing that waiting would mend.
pub async fn schema_is_current(
    store: &Store,
    known: &[Migration],
    drain: &Drain,
) -> Result<bool, DbError> {
    loop {
        match store.check_schema(known).await {
            Ok(()) => return Ok(true),
            Err(error) if error.is_outage() => tracing::warn!(%error, "database_awaited"),
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = drain.begun() => return Ok(false),
        }
    }
}
