//! The use of API keys, counted in memory and stored about once a minute, so that it costs no
//! request a round trip.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use common::{
    db::{DbError, Store},
    id::{ApiKeyId, TenantId},
};
use domain::tenancy::api_keys::{
    ApiKey,
    usage::{Counts, Outcome, Used, hour_of},
};
use mongodb::bson::DateTime;
use tokio::time::MissedTickBehavior;

/// Time between two writes.
const PERIOD: Duration = Duration::from_mins(1);
/// The most keys and hours that are counted at once, while the database is unavailable for instance.
const COUNTED_MAX: usize = 50_000;

/// Counts the use of keys since the last write.
#[derive(Default)]
pub(crate) struct KeyUse(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    /// By key and hour.
    requests: HashMap<(ApiKeyId, DateTime), (TenantId, Counts)>,
    /// Keys that were accepted.
    used: HashSet<ApiKeyId>,
    /// Requests that were not counted, because there were too many keys.
    lost: u64,
}

impl Counted {
    fn add(&mut self, used: Used) {
        let is_full = self.requests.len() >= COUNTED_MAX;
        let entry = (used.key, used.hour);
        if is_full && !self.requests.contains_key(&entry) {
            self.lost += 1;
            return;
        }
        let (_, counts) =
            self.requests.entry(entry).or_insert_with(|| (used.tenant, Counts::default()));
        counts.add_all(used.counts);
    }
}

impl KeyUse {
    /// Notes that a key was accepted.
    pub(crate) fn note_used(&self, key: ApiKeyId) {
        let mut counted = self.counted();
        if counted.used.len() < COUNTED_MAX {
            counted.used.insert(key);
        }
    }

    /// Counts a request of a key that was answered with this HTTP status.
    pub(crate) fn count(&self, tenant: TenantId, key: ApiKeyId, now: DateTime, status: u16) {
        let mut counts = Counts::default();
        counts.add(Outcome::of(status));
        self.counted().add(Used { tenant, key, hour: hour_of(now), counts });
    }

    /// Stores periodically how keys are used, for as long as the process runs.
    pub(crate) async fn keep(&self, store: &Store) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.write(store).await {
                tracing::warn!(%error, "api_key_usage_not_stored");
            }
        }
    }

    /// Stores how keys were used. What could not be stored is kept for the next time.
    pub(crate) async fn write(&self, store: &Store) -> Result<(), DbError> {
        let Counted { requests, used, lost } = std::mem::take(&mut *self.counted());
        if lost > 0 {
            tracing::warn!(lost, "api_key_usage_lost");
        }
        let keys: Vec<ApiKeyId> = used.into_iter().collect();
        let counted = |((key, hour), (tenant, counts))| Used { tenant, key, hour, counts };
        let mut requests: Vec<Used> = requests.into_iter().map(counted).collect();
        let written = Used::write(store, &mut requests).await;
        for unwritten in requests {
            self.counted().add(unwritten);
        }
        written?;
        // Lost if it fails: the next use is recorded again.
        ApiKey::used(store, &keys).await
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use common::clock::Clock;

    use super::*;

    #[test]
    fn memory_is_bounded() {
        let (clock, key_use) = (Clock::system(), KeyUse::default());
        let (tenant, first) = (clock.id(), clock.id());
        key_use.count(tenant, first, clock.now(), 200);
        for _ in 0..COUNTED_MAX {
            key_use.count(tenant, clock.id(), clock.now(), 200);
            key_use.note_used(clock.id());
        }
        key_use.count(tenant, first, clock.now(), 429);
        let counted = key_use.counted();
        assert_eq!((counted.requests.len(), counted.used.len()), (COUNTED_MAX, COUNTED_MAX));
        assert_eq!(counted.lost, 1, "a key that is known still counts");
    }
}
