//! Signed-in sessions.

use std::time::Duration;

use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    ambient::later,
    db::{
        DbError, IndexPlan, PlatformOwned, PlatformScope, Record, Store, Txn,
        schema::{self, Validator},
    },
    id::{SessionId, TenantId, UserId},
};

/// The most of a client's self-description that is kept, in characters.
const DEVICE_CHARS_MAX: usize = 200;

/// One sign-in of one person in one tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Session {
    /// Its id, the token's `sid`.
    #[serde(rename = "_id")]
    pub id: SessionId,
    /// Who signed in.
    pub user_id: UserId,
    /// The tenant they work in.
    pub tenant_id: TenantId,
    /// What the client says it is (`User-Agent`).
    pub device: String,
    /// Since when.
    pub created_at: DateTime,
    /// Ended from then on; the row vanishes a while later.
    pub expires_at: DateTime,
    /// When it was ended early.
    pub revoked_at: Option<DateTime>,
}

impl Record for Session {
    const COLLECTION: &'static str = "sessions";
}
impl PlatformOwned for Session {}

pub(crate) const INDEXES: &[IndexPlan] = &[
    IndexPlan { collection: Session::COLLECTION, name: "sessions_user", keys: &[("user_id", 1), ("_id", -1)], unique: false, ttl: false },
    IndexPlan { collection: Session::COLLECTION, name: "sessions_ttl", keys: &[("expires_at", 1)], unique: false, ttl: true },
];

pub(crate) const VALIDATOR: Validator = Validator {
    collection: Session::COLLECTION,
    required: &[
        ("_id", schema::STRING),
        ("user_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("created_at", schema::DATE),
        ("expires_at", schema::DATE),
        ("revoked_at", schema::DATE_OR_NULL),
    ],
};

impl Session {
    /// Signs `user` in to `tenant`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn create(txn: &mut Txn, user: UserId, tenant: TenantId, device: &str, ttl: Duration) -> Result<Self, DbError> {
        let now = txn.ambient().now();
        let session = Self {
            id: txn.ambient().id(),
            user_id: user,
            tenant_id: tenant,
            device: device.chars().filter(|c| !c.is_control()).take(DEVICE_CHARS_MAX).collect(),
            created_at: now,
            expires_at: later(now, ttl),
            revoked_at: None,
        };
        txn.records::<Self>(PlatformScope).insert(&session).await?;
        Ok(session)
    }

    /// The session, if it is neither ended nor expired. MongoDB removes expired rows late, so the
    /// time is compared here.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn live(store: &Store, id: SessionId) -> Result<Option<Self>, DbError> {
        let now = store.ambient().now();
        let filter = doc! { "_id": id, "revoked_at": null, "expires_at": { "$gt": now } };
        store.records::<Self>(PlatformScope).find(filter).await
    }

    /// Ends the session; tells whether it was live.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn revoke(txn: &mut Txn, id: SessionId) -> Result<bool, DbError> {
        let now = txn.ambient().now();
        let update = doc! { "$set": { "revoked_at": now } };
        txn.records::<Self>(PlatformScope).update(doc! { "_id": id, "revoked_at": null }, update).await
    }
}
