//! Warnings that keys expire.
//!
//! Each row has the time of its next warning, which is set again when the expiry changes. So a warning
//! is sent once for each expiry, no matter how often the sweep runs.

use std::time::Duration;

use common::{
    clock::earlier,
    db::{Change, DbError, PlatformScope, Store, TenantScope, Txn},
};
use jobs::{Job, Queue, Unique, Window};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use super::{ApiKey, Notice, notices::notify};
use crate::queues;

/// How long before the expiry of a key its owners are warned.
const WARNINGS: [Duration; 2] = [Duration::from_hours(7 * 24), Duration::from_hours(24)];

/// The first warning after `now` for a key that expires at `expires_at`. One whose time has passed
/// is not made up for: somebody who creates a key for two days knows that it expires in two days.
pub(super) fn warn_at(now: DateTime, expires_at: Option<DateTime>) -> Option<DateTime> {
    let expires_at = expires_at?;
    WARNINGS.into_iter().map(|before| earlier(expires_at, before)).find(|at| *at > now)
}

/// Stages the warnings that are due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarnExpiring {}

impl Job for WarnExpiring {
    const KIND: &'static str = "api_key.warn_expiring";
    const QUEUE: Queue = queues::MAINTENANCE;

    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: String::new(), window: Window::UntilFinished })
    }
}

impl ApiKey {
    /// Up to `limit` keys whose warning is due. Platform-wide, for the sweep.
    pub async fn to_warn(store: &Store, limit: i64) -> Result<Vec<Self>, DbError> {
        // Compared as dates: keys without a warning have none.
        let filter = doc! { "warn_at": { "$lte": store.clock().now() } };
        store.records::<Self>(PlatformScope).list(filter, doc! { "warn_at": 1 }, limit).await
    }
}

/// Warns about keys of which a warning was due, unless that has changed in the meantime; returns
/// about how many.
#[derive(Debug)]
pub struct WarnSome<'a>(pub &'a [ApiKey]);

impl Change for WarnSome<'_> {
    type Output = usize;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<usize, DbError> {
        let (now, mut warned) = (txn.clock().now(), 0);
        for key in self.0 {
            let scope = TenantScope::of_row(key);
            let filter = doc! { "_id": key.id, "warn_at": key.warn_at };
            let update = doc! { "$set": { "warn_at": warn_at(now, key.expires_at) } };
            let row = txn.records::<ApiKey>(scope).find_and_update(filter, update).await?;
            let row = row.filter(|row| row.check_key(now).is_ok());
            if let Some(expires_at) = row.and_then(|row| row.expires_at) {
                notify(txn, scope, &[key.id], Notice::expiring(expires_at)).await?;
                warned += 1;
            }
        }
        Ok(warned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_due_a_week_and_a_day_before() {
        const DAY: i64 = 86_400_000;
        let at = |now, expires| {
            let due = warn_at(DateTime::from_millis(now), Some(DateTime::from_millis(expires)));
            due.map(|due| due.timestamp_millis() / DAY)
        };
        assert_eq!(at(0, 30 * DAY), Some(23));
        assert_eq!(at(23 * DAY, 30 * DAY), Some(29), "the next after the first");
        assert_eq!(at(0, 5 * DAY), Some(4), "it was too late for the first");
        assert_eq!(at(29 * DAY, 30 * DAY), None);
        assert_eq!(warn_at(DateTime::from_millis(0), None), None);
    }
}
