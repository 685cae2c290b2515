//! The relay: enqueues jobs that the fast path missed, and restores what Redis lost.
//!
//! Every worker runs a relay; a lease in MongoDB makes one of them the leader. Enqueueing is
//! idempotent (Redis drops ids it knows), so the relay need not know what the fast path did: it
//! takes every unmarked row older than a round, oldest first, and marks it. Marked rows that Redis
//! does not have are enqueued again: all rows of a queue if its server restarted, failed over or
//! was flushed, and one page per round otherwise.
//!
//! Queues may be on different servers, so each is processed separately: an unavailable server
//! affects only its own queues.

use std::{collections::BTreeMap, time::Duration};

use common::{
    backoff::reconnect_delay,
    db::{DbError, Lease, PlatformScope},
    id::JobId,
    telemetry::metrics,
};
use mongodb::bson::{DateTime, Document, doc};

use crate::{
    Drain, Jobs, Queue,
    handover::{count_enqueued, signed_push},
    outbox::{self, ForgetError, OutboxRow, forget_duplicates},
    queue::{DeadLetter, HandIn},
};

/// Name of the leader's lease.
const LEASE: &str = "outbox-relay";
/// Rounds that the leader may miss before another relay takes over.
const LEASE_ROUNDS: u32 = 5;
/// Rows processed in one page.
const PAGE: i64 = 1_000;

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("Redis, queue {0}: {1}")]
    Redis(Queue, #[source] redis::RedisError),
}

/// Adds the queue to an error of Redis.
fn redis_of(queue: Queue) -> impl Fn(redis::RedisError) -> RelayError {
    move |error| RelayError::Redis(queue, error)
}

/// The relay of one process.
pub struct Relay {
    jobs: Jobs,
    holder: String,
    compared: BTreeMap<Queue, Compared>,
    /// Number of waiting rows of queues that are not declared, as last logged.
    undeclared: u64,
}

/// How far a queue has been compared with the outbox.
struct Compared {
    /// The epoch of its server at the last full comparison.
    epoch: String,
    /// Where the gradual comparison continues.
    after: Option<JobId>,
}

impl Relay {
    /// A relay that is not the leader yet.
    pub fn new(jobs: Jobs) -> Self {
        let holder = jobs.store().clock().uuid().to_string();
        Self { jobs, holder, compared: BTreeMap::new(), undeclared: 0 }
    }

    /// Runs until the shutdown begins.
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

    /// Whether this process is the leader now.
    async fn leads(&self) -> Result<bool, DbError> {
        let ttl = self.jobs.broker().config().relay_interval * LEASE_ROUNDS;
        let leads = Lease::acquire(self.jobs.store(), LEASE, &self.holder, ttl).await;
        metrics::JOBS_RELAY_LEADER.set(i64::from(matches!(leads, Ok(true))));
        leads
    }

    /// Enqueues every unmarked row that is older than a round.
    async fn round(&mut self, age: Duration) -> Result<(), RelayError> {
        let leads = self.leads().await;
        if !matches!(leads, Ok(true)) {
            // Only the leader measures the outbox, and only while MongoDB answers it.
            self.compared.clear();
            show_outbox(0, 0);
            self.show_undeclared(0, None);
            return leads.map(drop).map_err(RelayError::from);
        }
        let before = DateTime::from_millis(
            self.now().timestamp_millis().saturating_sub(common::clock::millis_of(age)),
        );
        let waiting = doc! { "handed_at": null, "dead_at": null, "staged_at": { "$lte": before } };
        self.measure_outbox(&waiting).await?;
        let mut outcome = Ok(());
        for queue in self.jobs.queues().clone().all() {
            outcome = outcome.and(self.relay(queue, &waiting).await);
        }
        outcome
    }

    /// Enqueues the rows of `queue` that match `waiting`, oldest first.
    async fn relay(&self, queue: Queue, waiting: &Document) -> Result<(), RelayError> {
        loop {
            let rows = self.page(queue, waiting.clone()).await?;
            self.hand_over(queue, &rows, HandIn::Again, "relay").await?;
            self.mark_handed(&rows).await?;
            // Renews the lease, which a long backlog would outlast.
            if !is_full(&rows) || !self.leads().await? {
                return Ok(());
            }
        }
    }

    /// Compares the outbox with Redis.
    async fn compare(&mut self) -> Result<(), RelayError> {
        if !self.leads().await? {
            return Ok(());
        }
        self.forget_dead().await?;
        let mut outcome = Ok(());
        for queue in self.jobs.queues().clone().all() {
            outcome = outcome.and(self.compare_queue(queue).await);
        }
        outcome
    }

    /// Compares the whole queue if its Redis has a new epoch, otherwise one page.
    async fn compare_queue(&mut self, queue: Queue) -> Result<(), RelayError> {
        let fresh = self.jobs.store().clock().uuid().to_string();
        let epoch = self.jobs.broker().epoch(queue, &fresh).await.map_err(redis_of(queue))?;
        let mut after = None;
        if let Some(compared) = self.compared.get(&queue).filter(|compared| compared.epoch == epoch)
        {
            after = self.compare_page(queue, compared.after).await?;
        } else {
            tracing::info!(%queue, "redis_compared_with_outbox");
            self.jobs.broker().sweep(queue).await.map_err(redis_of(queue))?;
            loop {
                after = self.compare_page(queue, after).await?;
                if after.is_none() {
                    break;
                }
                if !self.leads().await? {
                    return Ok(());
                }
            }
            self.restore_dead(queue).await?;
        }
        self.compared.insert(queue, Compared { epoch, after });
        Ok(())
    }

    /// Removes the rows of dead letters that have exceeded their retention.
    async fn forget_dead(&self) -> Result<(), DbError> {
        let kept = common::clock::millis_of(self.jobs.broker().config().dead_retention);
        let before = DateTime::from_millis(self.now().timestamp_millis().saturating_sub(kept));
        let filter = doc! { "dead_at": { "$lte": before } };
        self.jobs.store().records::<OutboxRow>(PlatformScope).delete_all(filter).await.map(drop)
    }

    /// Compares the page after `after`; returns its last id, or none at the end.
    async fn compare_page(
        &self,
        queue: Queue,
        after: Option<JobId>,
    ) -> Result<Option<JobId>, RelayError> {
        let mut filter = doc! { "dead_at": null, "handed_at": { "$ne": null } };
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        let rows = self.page(queue, filter).await?;
        let ids: Vec<JobId> = rows.iter().map(|row| row.id).collect();
        let last = ids.last().copied().filter(|_| is_full(&rows));
        if !ids.is_empty() {
            let jobs: Vec<_> = rows.iter().map(|row| (row.id, row.tenant_id)).collect();
            let present =
                self.jobs.broker().present(queue, &jobs).await.map_err(redis_of(queue))?;
            let unknown: Vec<OutboxRow> = rows
                .into_iter()
                .zip(present)
                .filter(|(_, present)| !present)
                .map(|(row, _)| row)
                .collect();
            if !unknown.is_empty() {
                tracing::warn!(%queue, jobs = unknown.len(), "jobs_lost_by_redis_reenqueued");
                self.hand_over(queue, &unknown, HandIn::Lost, "reconcile").await?;
            }
        }
        Ok(last)
    }

    /// Restores the dead letters of staged jobs that Redis lost, newest first, up to the number
    /// that is kept.
    async fn restore_dead(&self, queue: Queue) -> Result<(), RelayError> {
        let broker = self.jobs.broker();
        let kept = broker.stats(queue).await.map_err(redis_of(queue))?.dead;
        let mut room = broker.config().dead_max.saturating_sub(kept);
        let mut before: Option<(DateTime, JobId)> = None;
        while room > 0 {
            let rows = self.dead_page(queue, before).await?;
            let ids: Vec<JobId> = rows.iter().map(|row| row.id).collect();
            let Some(last) = rows.last() else { return Ok(()) };
            let there = broker.has_dead(queue, &ids).await.map_err(redis_of(queue))?;
            let missing: Vec<_> =
                rows.iter().zip(there).filter(|(_, there)| !there).map(|(row, _)| row).collect();
            for row in missing.into_iter().take(usize::try_from(room).unwrap_or(usize::MAX)) {
                let died_at = row.dead_at.map_or(0, DateTime::timestamp_millis);
                let letter = DeadLetter::of_row(row);
                match letter.map(|letter| letter.signed(&broker.config().envelope_key)) {
                    Ok(letter) => {
                        broker
                            .restore_dead(queue, row.id, died_at, &letter.to_bytes())
                            .await
                            .map_err(redis_of(queue))?;
                        room -= 1;
                    }
                    Err(error) => {
                        tracing::error!(job = %row.id, %error, "outbox_row_unreadable");
                    }
                }
            }
            if !is_full(&rows) {
                return Ok(());
            }
            before = last.dead_at.map(|dead_at| (dead_at, last.id));
        }
        Ok(())
    }

    /// The newest dead rows of `queue` that died before a given row.
    async fn dead_page(
        &self,
        queue: Queue,
        before: Option<(DateTime, JobId)>,
    ) -> Result<Vec<OutboxRow>, DbError> {
        let mut filter = doc! { "queue": queue.name(), "dead_at": { "$ne": null } };
        if let Some((dead_at, id)) = before {
            filter.insert(
                "$or",
                [
                    doc! { "dead_at": { "$lt": dead_at } },
                    doc! { "dead_at": dead_at, "_id": { "$lt": id } },
                ],
            );
        }
        self.jobs
            .store()
            .records::<OutboxRow>(PlatformScope)
            .list(filter, doc! { "dead_at": -1, "_id": -1 }, PAGE)
            .await
    }

    /// The first matching rows of `queue`. Rows of queues that only a newer release knows are left
    /// to its relay.
    async fn page(&self, queue: Queue, mut filter: Document) -> Result<Vec<OutboxRow>, DbError> {
        filter.insert("queue", queue.name());
        self.jobs
            .store()
            .records::<OutboxRow>(PlatformScope)
            .list(filter, doc! { "_id": 1 }, PAGE)
            .await
    }

    async fn hand_over(
        &self,
        queue: Queue,
        rows: &[OutboxRow],
        how: HandIn,
        path: &str,
    ) -> Result<(), RelayError> {
        let now_ms = self.now().timestamp_millis();
        let mut pushes = Vec::with_capacity(rows.len());
        for row in rows {
            match signed_push(self.jobs.broker(), row, now_ms) {
                Ok(push) => pushes.push(push),
                Err(error) => self.dead_letter_row(row, &error).await?,
            }
        }
        if pushes.is_empty() {
            return Ok(());
        }
        let handed = self.jobs.broker().push(queue, &pushes, how).await.map_err(redis_of(queue))?;
        count_enqueued(queue, path, handed.taken);
        let forgotten =
            forget_duplicates(self.jobs.store(), self.jobs.broker(), queue, &handed.duplicates)
                .await;
        forgotten.map_err(|error| match error {
            ForgetError::Db(error) => error.into(),
            ForgetError::Redis(error) => redis_of(queue)(error),
        })
    }

    /// Dead-letters a row that no release can have written, so that it does not block the others.
    async fn dead_letter_row(
        &self,
        row: &OutboxRow,
        error: &serde_json::Error,
    ) -> Result<(), DbError> {
        tracing::error!(job = %row.id, kind = row.kind, %error, "outbox_row_dead_lettered");
        // A follow-up job of its batch is enqueued in the next round.
        outbox::mark_dead(self.jobs.store(), row.id, self.now(), &row.failures).await.map(drop)
    }

    async fn mark_handed(&self, rows: &[OutboxRow]) -> Result<(), DbError> {
        if rows.is_empty() {
            return Ok(());
        }
        let ids: Vec<JobId> = rows.iter().map(|row| row.id).collect();
        let update = doc! { "$set": { "handed_at": self.now() } };
        self.jobs
            .store()
            .records::<OutboxRow>(PlatformScope)
            .update_all(doc! { "_id": { "$in": ids } }, update)
            .await
            .map(drop)
    }

    /// Updates the metrics of the outbox: number of rows, age of the oldest that matches `waiting`,
    /// and how many of those belong to queues that are not declared.
    async fn measure_outbox(&mut self, waiting: &Document) -> Result<(), DbError> {
        let store = self.jobs.store().clone();
        let records = || store.records::<OutboxRow>(PlatformScope);
        let oldest = records().list(waiting.clone(), doc! { "_id": 1 }, 1).await?;
        let declared: Vec<&str> = self.jobs.queues().all().map(Queue::name).collect();
        // Nobody enqueues them, so sooner or later the oldest row is one of them.
        let stuck = oldest.first().filter(|row| !declared.contains(&row.queue.as_str()));
        let mut undeclared = 0;
        if stuck.is_some() {
            let mut filter = waiting.clone();
            filter.insert("queue", doc! { "$nin": declared });
            undeclared = records().count(filter).await?;
        }
        self.show_undeclared(undeclared, stuck);
        let staged_ms = oldest.first().map(|row| row.staged_at.timestamp_millis());
        let age_ms = staged_ms
            .map_or(0, |staged_ms| self.now().timestamp_millis().saturating_sub(staged_ms));
        show_outbox(age_ms, records().estimated_count().await?);
        Ok(())
    }

    fn show_undeclared(&mut self, rows: u64, oldest: Option<&OutboxRow>) {
        metrics::JOBS_OUTBOX_UNDECLARED.set(i64::try_from(rows).unwrap_or(i64::MAX));
        if let Some(OutboxRow { queue, id, .. }) = oldest
            && rows != self.undeclared
        {
            tracing::warn!(rows, queue, oldest = %id, "jobs_of_undeclared_queue");
        }
        self.undeclared = rows;
    }

    fn now(&self) -> DateTime {
        self.jobs.store().clock().now()
    }
}

fn show_outbox(age_ms: i64, rows: u64) {
    metrics::JOBS_OUTBOX_AGE
        .set(Duration::from_millis(u64::try_from(age_ms).unwrap_or_default()).as_secs_f64());
    metrics::JOBS_OUTBOX_ROWS.set(i64::try_from(rows).unwrap_or(i64::MAX));
}

fn is_full(page: &[OutboxRow]) -> bool {
    page.len() == usize::try_from(PAGE).unwrap_or_default()
}
