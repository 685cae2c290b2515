//! Leases: one process at a time does a job, and another takes over when it stops responding.

use std::time::Duration;

use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use super::{Data, DbError, PlatformScope, Record, Store};
use crate::clock::later;

/// The row of a lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lease {
    /// What is leased, such as `relay`.
    #[serde(rename = "_id")]
    pub name: String,
    /// The process that holds the lease.
    pub holder: String,
    /// When another process may take it.
    pub expires_at: DateTime,
}

impl Record for Lease {
    const COLLECTION: &'static str = "leases";
    const DATA: Data = Data::of_platform();
}

impl Lease {
    /// Acquires or renews the lease `name`; returns whether `holder` now holds it.
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
            // The row belongs to another holder, so the upsert tried to insert a second one.
            Err(DbError::Duplicate(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Renews a lease until another process has taken it, and returns the error that says so.
    pub async fn keep(store: &Store, name: &str, holder: &str, ttl: Duration) -> DbError {
        loop {
            tokio::time::sleep(ttl / 3).await;
            match Self::acquire(store, name, holder, ttl).await {
                Ok(true) => {}
                Ok(false) => return DbError::LeaseLost(ttl),
                Err(error) => tracing::warn!(%error, lease = name, "lease_not_renewed"),
            }
        }
    }

    /// Releases the lease, so that the next holder need not wait for it to expire.
    pub async fn release(store: &Store, name: &str, holder: &str) -> Result<(), DbError> {
        store
            .records::<Self>(PlatformScope)
            .delete_all(doc! { "_id": name, "holder": holder })
            .await
            .map(drop)
    }
}
