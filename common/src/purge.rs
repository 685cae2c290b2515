//! What is over and nobody needs any more, removed a batch at a time: links that were never
//! followed, invitations that were never accepted, sessions that ended.
//!
//! A job does it (`jobs::maintenance::Purge`), at a time and a pace that an installation chooses,
//! and counts what it removes. The TTL indexes of these collections are the net beneath it: they
//! remove whatever no job did within [`NET`]. Whoever reads a row looks at its times, so it does
//! not matter when it goes. What is used up is removed by its use.

use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};

use crate::{
    db::{DbError, IndexPlan, Plan, PlatformScope, Record, Store},
    email_changes::EmailChange,
    invitations::Invitation,
    password_resets::PasswordReset,
    registrations::Registration,
    sessions::Session,
};

/// What no job removed is removed by MongoDB this long after it was over.
pub const NET: Duration = Duration::from_hours(7 * 24);

/// Sessions by when they were ended, so that those are found without a look at all.
const ENDED_SESSIONS: IndexPlan = IndexPlan {
    collection: Session::COLLECTION,
    name: "sessions_revoked",
    keys: &[("revoked_at", 1)],
    unique: false,
    ttl: false,
};

pub(crate) const SCHEMA: &[Plan] = &[Plan::Indexes(&[ENDED_SESSIONS]), Plan::Linger(EXPIRIES, NET)];

/// The TTL indexes that are the net.
const EXPIRIES: &[(&str, &str)] = &[
    (Registration::COLLECTION, "registrations_ttl"),
    (PasswordReset::COLLECTION, "password_resets_ttl"),
    (EmailChange::COLLECTION, "email_changes_ttl"),
    (Invitation::COLLECTION, "invitations_ttl"),
    (Session::COLLECTION, "sessions_ttl"),
];

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
