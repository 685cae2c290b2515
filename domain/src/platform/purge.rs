//! Removal of rows that are no longer needed, in batches: links that were never followed,
//! invitations that were never accepted, sessions that ended.
//!
//! A job ([`Purge`]) removes them on the installation's schedule and counts them. TTL indexes on
//! these collections are the fallback: they remove whatever no job has removed within
//! [`PURGE_AFTER_MAX`](common::config::PURGE_AFTER_MAX). Code that reads a row checks its times, so
//! it does not matter when the row is removed. Rows that are used up are removed by their use.

use std::time::Duration;

use common::db::{DbError, PlatformScope, Record, Store};
use jobs::{Job, Queue, Unique, Window};
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{
    identity::{
        email_changes::EmailChange, password_resets::PasswordReset, registrations::Registration,
    },
    people::sessions::Session,
    queues,
    tenancy::invitations::Invitation,
};

/// A kind of row that can be purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// Registrations whose email address was not verified in time.
    Registrations,
    /// Password reset links that were not followed in time.
    PasswordResets,
    /// Changes of an email address that were not confirmed in time.
    EmailChanges,
    /// Invitations that were not accepted in time.
    Invitations,
    /// Sessions that expired or were ended.
    Sessions,
}

impl Leftover {
    /// All kinds.
    pub const ALL: &'static [Self] = &[
        Self::Registrations,
        Self::PasswordResets,
        Self::EmailChanges,
        Self::Invitations,
        Self::Sessions,
    ];

    /// Its name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registrations => "registrations",
            Self::PasswordResets => "password_resets",
            Self::EmailChanges => "email_changes",
            Self::Invitations => "invitations",
            Self::Sessions => "sessions",
        }
    }

    /// Removes up to `limit` rows that expired before `before`; returns how many.
    pub async fn purge(self, store: &Store, before: DateTime, limit: u32) -> Result<u64, DbError> {
        let expired = doc! { "expires_at": { "$lt": before } };
        match self {
            Self::Registrations => purge::<Registration>(store, expired, limit).await,
            Self::PasswordResets => purge::<PasswordReset>(store, expired, limit).await,
            Self::EmailChanges => purge::<EmailChange>(store, expired, limit).await,
            Self::Invitations => purge::<Invitation>(store, expired, limit).await,
            Self::Sessions => {
                let over = doc! { "$or": [expired, { "revoked_at": { "$lt": before } }] };
                purge::<Session>(store, over, limit).await
            }
        }
    }
}

/// Across all tenants: the rows are not shown to anybody.
async fn purge<T: Record>(store: &Store, over: Document, limit: u32) -> Result<u64, DbError> {
    store.records::<T>(PlatformScope).delete_some(over, limit).await
}

/// Removes expired rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purge {}

impl Job for Purge {
    const KIND: &'static str = "maintenance.purge";
    const QUEUE: Queue = queues::MAINTENANCE;
    /// Backlogs are long after an outage; the next attempt continues.
    const TIMEOUT: Duration = Duration::from_mins(10);

    /// At most one runs at a time, even if it takes longer than the interval.
    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: String::new(), window: Window::UntilFinished })
    }
}
