//! Leases: one process at a time does a thing, and another takes over when it falls silent.

use std::time::Duration;

use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use super::{DbError, PlatformOwned, PlatformScope, Record, Store};
use crate::clock::later;

/// Who holds what until when.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lease {
    /// What is held, for instance `relay`.
    #[serde(rename = "_id")]
    pub name: String,
    /// The holding process.
    pub holder: String,
    /// Free for others from then on.
    pub expires_at: DateTime,
}

impl Record for Lease {
    const COLLECTION: &'static str = "leases";
}
impl PlatformOwned for Lease {}

impl Lease {
    /// Takes or renews the lease `name`; tells whether `holder` holds it now.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn acquire(
        store: &Store,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, DbError> {
        let now = store.clock().now();
        let free_or_ours =
            doc! { "_id": name, "$or": [{ "holder": holder }, { "expires_at": { "$lte": now } }] };
        let update = doc! { "$set": { "holder": holder, "expires_at": later(now, ttl) } };
        match store.records::<Self>(PlatformScope).upsert(free_or_ours, update).await {
            Ok(()) => Ok(true),
            // The row exists and is somebody else's, so the upsert tried to add a second one.
            Err(DbError::Duplicate(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the lease back, so that the next holder need not wait for it to expire.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn release(store: &Store, name: &str, holder: &str) -> Result<(), DbError> {
        store
            .records::<Self>(PlatformScope)
            .delete_all(doc! { "_id": name, "holder": holder })
            .await
            .map(drop)
    }
}
