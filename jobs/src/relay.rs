//! The relay: hands over what the fast path left behind, and rebuilds what Redis lost.
//!
//! Every worker runs one; a lease in MongoDB makes one of them the leader. Handing over is
//! idempotent (Redis drops ids it knows), so the relay need not know what the fast path did: it
//! takes every row that is older than a round and not marked, oldest first, and marks it. Marked
//! rows that Redis does not know are handed over again: all of them at once when Redis restarted,
//! failed over or was flushed, and a page a round otherwise.

use std::{collections::BTreeMap, time::Duration};

use common::{
    db::{DbError, Lease, PlatformScope},
    id::JobId,
    telemetry::metrics,
};
use mongodb::bson::{DateTime, Document, doc};

use crate::{
    Drain, Jobs, Queue,
    backoff::reconnect_delay,
    handover::count_enqueued,
    outbox::{self, OutboxRow},
    queue::{DeadLetter, Push},
};

/// Name of the leader's lease.
const LEASE: &str = "outbox-relay";
/// Rounds the leader may miss before another takes over.
const LEASE_ROUNDS: u32 = 5;
/// Rows handled in one page.
const PAGE: i64 = 1_000;

/// Why a round was cut short.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
}

/// One process' relay.
pub struct Relay {
    jobs: Jobs,
    holder: String,
    /// What Redis said it is when everything was last compared.
    epoch: Option<String>,
    /// Where the slow comparison goes on.
    compared_to: Option<JobId>,
}

impl Relay {
    /// A relay that is not the leader yet.
    pub fn new(jobs: Jobs) -> Self {
        let holder = jobs.store().ambient().uuid().to_string();
        Self { jobs, holder, epoch: None, compared_to: None }
    }

    /// Runs until the drain begins.
    pub async fn run(mut self, drain: Drain) {
        let config = self.jobs.broker().config().clone();
        let mut rounds = tokio::time::interval(config.relay_interval);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut comparisons = tokio::time::interval(config.reconcile_interval);
        comparisons.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failures = 0;
        loop {
            let broker = self.jobs.broker().clone();
            let result = tokio::select! {
                _ = rounds.tick() => self.round(config.relay_interval).await,
                _ = comparisons.tick() => self.compare().await,
                () = broker.loss_suspected() => self.compare().await,
                () = drain.begun() => break,
            };
            match result {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, failures, "relay_round_failed");
                    tokio::select! {
                        () = tokio::time::sleep(reconnect_delay(failures)) => {}
                        () = drain.begun() => break,
                    }
                }
            }
        }
        self.step_down().await;
    }

    async fn step_down(&self) {
        metrics::JOBS_RELAY_LEADER.set(0);
        if let Err(error) = Lease::release(self.jobs.store(), LEASE, &self.holder).await {
            tracing::debug!(%error, "relay_lease_not_released");
        }
    }

    /// Whether this process leads now.
    async fn leads(&self) -> Result<bool, DbError> {
        let ttl = self.jobs.broker().config().relay_interval * LEASE_ROUNDS;
        let leads = Lease::acquire(self.jobs.store(), LEASE, &self.holder, ttl).await;
        metrics::JOBS_RELAY_LEADER.set(i64::from(matches!(leads, Ok(true))));
        leads
    }

    /// Hands over every row that is older than a round and not marked.
    async fn round(&mut self, age: Duration) -> Result<(), RelayError> {
        if !self.leads().await? {
            self.show_outbox(None, 0);
            self.epoch = None;
            return Ok(());
        }
        let before = DateTime::from_millis(self.now().timestamp_millis().saturating_sub(common::ambient::millis_of(age)));
        loop {
            let rows = self.page(doc! { "handed_at": null, "dead_at": null, "staged_at": { "$lte": before } }).await?;
            let total = self.jobs.store().records::<OutboxRow>(PlatformScope).estimated_count().await?;
            self.show_outbox(rows.first(), total);
            let full = rows.len() == usize::try_from(PAGE).unwrap_or_default();
            self.hand_over(&rows, "relay").await?;
            self.mark_handed(&rows).await?;
            // A long backlog must not cost the lease.
            if !full || !self.leads().await? {
                return Ok(());
            }
        }
    }

    /// Compares what is staged with what Redis knows: everything when Redis is not what it was,
    /// a page otherwise.
    async fn compare(&mut self) -> Result<(), RelayError> {
        if !self.leads().await? {
            return Ok(());
        }
        let fresh = self.jobs.store().ambient().uuid().to_string();
        let epoch = self.jobs.broker().epoch(&fresh).await?;
        if self.epoch.as_ref() == Some(&epoch) {
            self.compared_to = self.compare_page(self.compared_to).await?;
            if self.compared_to.is_none() {
                self.forget_dead().await?;
            }
            return Ok(());
        }
        tracing::info!("redis_compared_with_outbox");
        let mut after = None;
        loop {
            after = self.compare_page(after).await?;
            if after.is_none() {
                break;
            }
            if !self.leads().await? {
                return Ok(());
            }
        }
        self.forget_dead().await?;
        self.restore_dead().await?;
        self.epoch = Some(epoch);
        Ok(())
    }

    /// Removes the rows of dead letters that are older than they are kept.
    async fn forget_dead(&self) -> Result<(), DbError> {
        let kept = common::ambient::millis_of(self.jobs.broker().config().dead_retention);
        let before = DateTime::from_millis(self.now().timestamp_millis().saturating_sub(kept));
        let filter = doc! { "dead_at": { "$lte": before } };
        self.jobs.store().records::<OutboxRow>(PlatformScope).delete_all(filter).await.map(drop)
    }

    /// Compares the page after `after`; answers its last id, or none when there is no more.
    async fn compare_page(&self, after: Option<JobId>) -> Result<Option<JobId>, RelayError> {
        let mut filter = doc! { "dead_at": null, "handed_at": { "$ne": null } };
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        let rows = self.page(filter).await?;
        let mut unknown = Vec::new();
        for (queue, rows) in by_queue(&rows) {
            let ids: Vec<JobId> = rows.iter().map(|row| row.id).collect();
            let known = self.jobs.broker().knows(queue, &ids).await?;
            unknown.extend(rows.into_iter().zip(known).filter(|(_, known)| !known).map(|(row, _)| row.clone()));
        }
        if !unknown.is_empty() {
            tracing::warn!(jobs = unknown.len(), "jobs_lost_by_redis_handed_over_again");
            self.hand_over(&unknown, "reconcile").await?;
        }
        let full = rows.len() == usize::try_from(PAGE).unwrap_or_default();
        Ok(rows.last().filter(|_| full).map(|row| row.id))
    }

    /// Puts back the dead letters of staged jobs that Redis lost.
    async fn restore_dead(&self) -> Result<(), RelayError> {
        let mut after: Option<JobId> = None;
        loop {
            let mut filter = doc! { "dead_at": { "$ne": null } };
            if let Some(after) = after {
                filter.insert("_id", doc! { "$gt": after });
            }
            let rows = self.page(filter).await?;
            for (queue, rows) in by_queue(&rows) {
                let ids: Vec<JobId> = rows.iter().map(|row| row.id).collect();
                let there = self.jobs.broker().has_dead(queue, &ids).await?;
                for row in rows.into_iter().zip(there).filter(|(_, there)| !there).map(|(row, _)| row) {
                    let died_at = row.dead_at.map_or(0, DateTime::timestamp_millis);
                    match DeadLetter::of_row(row) {
                        Ok(letter) => self.jobs.broker().restore_dead(queue, row.id, died_at, &letter.to_bytes()).await?,
                        Err(error) => tracing::error!(job = %row.id, %error, "outbox_row_not_understood"),
                    }
                }
            }
            let Some(last) = rows.last().filter(|_| rows.len() == usize::try_from(PAGE).unwrap_or_default()) else { return Ok(()) };
            after = Some(last.id);
        }
    }

    async fn page(&self, mut filter: Document) -> Result<Vec<OutboxRow>, DbError> {
        // Queues of a newer release are left to its own relay.
        let queues: Vec<&str> = Queue::ALL.iter().map(|queue| queue.name()).collect();
        filter.insert("queue", doc! { "$in": queues });
        self.jobs.store().records::<OutboxRow>(PlatformScope).list(filter, doc! { "_id": 1 }, PAGE).await
    }

    async fn hand_over(&self, rows: &[OutboxRow], path: &str) -> Result<(), RelayError> {
        let now_ms = self.now().timestamp_millis();
        for (queue, rows) in by_queue(rows) {
            let mut pushes = Vec::with_capacity(rows.len());
            for row in rows {
                match row.envelope().and_then(|envelope| Push::new(&envelope, now_ms)) {
                    Ok(push) => pushes.push(push),
                    Err(error) => self.bury_row(row, &error).await?,
                }
            }
            let taken = self.jobs.broker().push(queue, &pushes, true).await?;
            count_enqueued(queue, path, taken);
        }
        Ok(())
    }

    /// A row that no release can have written must not hold up the others.
    async fn bury_row(&self, row: &OutboxRow, error: &serde_json::Error) -> Result<(), DbError> {
        tracing::error!(job = %row.id, kind = row.kind, %error, "outbox_row_buried");
        // The job that may follow in its batch's stead waits for the next round.
        outbox::mark_dead(self.jobs.store(), row.id, self.now(), &row.failures).await.map(drop)
    }

    async fn mark_handed(&self, rows: &[OutboxRow]) -> Result<(), DbError> {
        if rows.is_empty() {
            return Ok(());
        }
        let ids: Vec<JobId> = rows.iter().map(|row| row.id).collect();
        let update = doc! { "$set": { "handed_at": self.now() } };
        self.jobs.store().records::<OutboxRow>(PlatformScope).update_all(doc! { "_id": { "$in": ids } }, update).await.map(drop)
    }

    fn show_outbox(&self, oldest: Option<&OutboxRow>, total: u64) {
        let now_ms = self.now().timestamp_millis();
        let age_ms = oldest.map_or(0, |row| now_ms.saturating_sub(row.staged_at.timestamp_millis()));
        metrics::JOBS_OUTBOX_AGE.set(Duration::from_millis(u64::try_from(age_ms).unwrap_or_default()).as_secs_f64());
        metrics::JOBS_OUTBOX_ROWS.set(i64::try_from(total).unwrap_or(i64::MAX));
    }

    fn now(&self) -> DateTime {
        self.jobs.store().ambient().now()
    }
}

fn by_queue(rows: &[OutboxRow]) -> BTreeMap<Queue, Vec<&OutboxRow>> {
    let mut groups = BTreeMap::<Queue, Vec<&OutboxRow>>::new();
    for row in rows {
        if let Some(queue) = row.queue() {
            groups.entry(queue).or_default().push(row);
        }
    }
    groups
}
