//! What is over and nobody needs any more, removed a batch at a time: links that were never
//! followed, invitations that were never accepted, sessions that ended.
//!
//! A job does it ([`Purge`]), at a time and a pace that an installation chooses,
//! and counts what it removes. The TTL indexes of these collections are the net beneath it: they
//! remove whatever no job did within [`PURGE_AFTER_MAX`](common::config::PURGE_AFTER_MAX). Whoever reads a row looks at its times, so it does
//! not matter when it goes. What is used up is removed by its use.

use std::time::Duration;

use common::db::{DbError, PlatformScope, Record, Store};
use jobs::{Job, Queue, Unique, Window};
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{
    identity::{
        email_changes::EmailChange, password_resets::PasswordReset, registrations::Registration,
        sessions::Session,
    },
    tenancy::invitations::Invitation,
};

/// A kind of what is left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// Registrations whose address was not verified in time.
    Registrations,
    /// Links for a new password that were not followed in time.
    PasswordResets,
    /// Changes of an address that were not confirmed in time.
    EmailChanges,
    /// Invitations that were not accepted in time.
    Invitations,
    /// Sessions that expired or were ended.
    Sessions,
}

impl Leftover {
    /// Every kind.
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

    /// Removes up to `limit` that were over before `before`; tells how many.
    ///
    /// # Errors
    /// When the store fails.
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

/// Across all tenants: nothing of the rows is shown to anybody.
async fn purge<T: Record>(store: &Store, over: Document, limit: u32) -> Result<u64, DbError> {
    store.records::<T>(PlatformScope).delete_some(over, limit).await
}

/// Removes what is over and nobody needs any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purge {}

impl Job for Purge {
    const KIND: &'static str = "maintenance.purge";
    const QUEUE: Queue = Queue::Maintenance;
    /// Backlogs are long when it was away for long; what is left is for the next attempt.
    const TIMEOUT: Duration = Duration::from_mins(10);

    /// One that takes longer than to the next tick is not joined by another.
    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: String::new(), window: Window::UntilFinished })
    }
}
