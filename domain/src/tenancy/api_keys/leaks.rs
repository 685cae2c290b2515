//! Revokes keys that someone found, such as a secret scanner.
//!
//! Anyone who has a key may revoke it. A job does so later, so the response and its time do not show
//! whether the key exists. The job contains hashes, because a key must never be stored.

use common::{
    crypto::{ApiKeyHash, PlainApiKey},
    db::{Change, DbError, PlatformScope, TenantScope, Txn},
    id::ApiKeyId,
};
use jobs::{Job, Queue, stage};
use mongodb::bson::doc;
use serde::{Deserialize, Serialize};

use super::{ApiKey, LISTED_MAX, Notice, changes::revoke, notices::notify, suspension::tenants};
use crate::{
    activity::{Action, Entry},
    queues,
};

/// Ends reported keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndLeakedApiKeys {
    pub hashes: Vec<ApiKeyHash>,
}

impl Job for EndLeakedApiKeys {
    const KIND: &'static str = "api_key.end_leaked";
    /// The queue with the highest priority: the keys work until then.
    const QUEUE: Queue = queues::EMAIL;
}

/// Requests the end of keys that were found.
#[derive(Debug)]
pub struct ReportLeaked {
    job: EndLeakedApiKeys,
}

impl ReportLeaked {
    pub fn new(keys: &[PlainApiKey]) -> Self {
        Self { job: EndLeakedApiKeys { hashes: keys.iter().map(PlainApiKey::hash).collect() } }
    }
}

impl Change for ReportLeaked {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, None, &self.job).await.map(drop)
    }
}

/// Ends the keys with these hashes, and notifies the owners, with one mail per tenant; returns how
/// many keys it ended. Also ends keys of which only a replaced secret was found, because nobody
/// knows what else its finder has.
#[derive(Debug)]
pub struct EndLeaked {
    pub hashes: Vec<ApiKeyHash>,
}

impl Change for EndLeaked {
    type Output = usize;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<usize, DbError> {
        let filter = doc! { "secrets.hash": { "$in": self.hashes.clone() }, "revoked_at": null };
        let found = txn.records::<ApiKey>(PlatformScope);
        let found = found.list(filter, doc! { "_id": 1 }, LISTED_MAX).await?;
        for tenant in tenants(&found) {
            let keys: Vec<&ApiKey> = found.iter().filter(|key| key.tenant_id == tenant).collect();
            let Some(first) = keys.first() else { continue };
            let scope = TenantScope::of_row(*first);
            let ids: Vec<ApiKeyId> = keys.iter().map(|key| key.id).collect();
            for id in &ids {
                revoke(txn, scope, *id).await?;
            }
            let event = Entry::new(Action::ApiKeyLeaked, first.id).on_all(&ids[1..]);
            event.record(txn, scope).await?;
            notify(txn, scope, &ids, Notice::Leaked).await?;
        }
        Ok(found.len())
    }
}
