//! Control of queues and jobs by operators: pause, resume, cancel, run now.

use std::{collections::HashSet, fmt};

use common::{
    clock::rfc3339,
    db::{DbError, PlatformScope},
    id::JobId,
};
use mongodb::bson::doc;
use serde::Serialize;

use crate::{
    Envelope, Jobs, Queue,
    handover::hand_over_rows,
    history::{self, HistoryEntry},
    outbox::{OutboxRow, remove_rows},
    queue::{self, Pause, Place},
};

/// Jobs processed in one round trip.
const BATCH: usize = 500;

/// Why a queue or a job could not be inspected or controlled.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Redis failed.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// An outbox row does not contain a valid job.
    #[error("an outbox row cannot be parsed: {0}")]
    Row(#[from] serde_json::Error),
    /// The job is in the outbox for a queue of another release.
    #[error(
        "{job} is in the queue `{queue}`, which this release does not know; use the release that staged it"
    )]
    ForeignQueue {
        /// Id of the job.
        job: JobId,
        /// Name of the queue.
        queue: String,
    },
    /// The cursor of a listing is invalid.
    #[error("the cursor is not one that a page of jobs returned; start again without it")]
    Cursor,
}

/// Result of cancelling a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cancelled {
    /// It was not found: it has ended, is a dead letter, or never existed.
    Unknown,
    /// It had not started, and will not run.
    Removed,
    /// It is running; its worker was asked to stop it and does so within moments, at the latest
    /// when it next renews its lease. If its attempt fails before that, the job ends as well.
    StopRequested,
}

impl Cancelled {
    /// Its name in logs and responses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Removed => "removed",
            Self::StopRequested => "stop_requested",
        }
    }
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Jobs {
    /// Stops all workers from starting jobs of `queue` until it is resumed. Running jobs continue.
    /// Pausing a paused queue changes nothing and returns the existing pause. If only Redis fails,
    /// the workers notice the pause a few seconds later.
    pub async fn pause(&self, queue: Queue, reason: &str) -> Result<Option<Pause>, ControlError> {
        let before = Pause::begin(self.store(), queue, reason).await?;
        match &before {
            None => tracing::info!(%queue, reason, "queue_pause_requested"),
            Some(before) => {
                tracing::info!(%queue, since = rfc3339(before.paused_at), reason = before.reason, "queue_already_paused");
            }
        }
        // Published even so, because a worker may have missed it.
        self.broker().announce_pause(queue).await?;
        Ok(before)
    }

    /// Lets the jobs of `queue` run again; returns whether it was paused. If only Redis fails, the
    /// workers notice a few seconds later.
    pub async fn resume(&self, queue: Queue) -> Result<bool, ControlError> {
        let was_paused = Pause::end(self.store(), queue).await?;
        tracing::info!(%queue, "{}", if was_paused { "queue_resume_requested" } else { "queue_not_paused" });
        self.broker().announce_pause(queue).await?;
        Ok(was_paused)
    }

    /// Since when and why `queue` is paused, if it is.
    pub async fn paused(&self, queue: Queue) -> Result<Option<Pause>, DbError> {
        Pause::of(self.store(), queue).await
    }

    /// Cancels jobs of `queue`: each will not run, or stops at its next `await`. Effects it already
    /// had remain. Returns the result for each job, in order; the history records it, see
    /// [`Ended::Cancelled`](history::Ended::Cancelled). On error, some jobs may still run.
    pub async fn cancel(
        &self,
        queue: Queue,
        jobs: &[JobId],
    ) -> Result<Vec<Cancelled>, ControlError> {
        let mut cancelled = Vec::with_capacity(jobs.len());
        for ids in jobs.chunks(BATCH) {
            let rows = self.waiting_rows(ids).await?;
            // Afterwards nothing is known any more about removed jobs.
            let known = self.known(queue, ids, &rows).await?;
            // The rows first: without a row, a job will not be enqueued again.
            let rows = self.remove_rows(&rows).await?;
            // Makes Redis reject jobs that are just being enqueued.
            self.broker().remember(queue, &rows).await?;
            let answers = self.broker().cancel(queue, ids).await?;
            let begun = cancelled.len();
            for (id, answer) in ids.iter().zip(answers) {
                let result = match answer {
                    queue::Cancelled::TakenOut => Cancelled::Removed,
                    queue::Cancelled::Asked => Cancelled::StopRequested,
                    // It had not reached Redis yet, and is not taken there any more.
                    queue::Cancelled::Unknown if rows.contains(id) => Cancelled::Removed,
                    queue::Cancelled::Unknown => Cancelled::Unknown,
                };
                tracing::info!(%queue, job = %id, %result, "job_cancel_requested");
                cancelled.push(result);
            }
            self.record_removed(queue, &known, ids.iter().zip(&cancelled[begun..])).await;
        }
        Ok(cancelled)
    }

    /// The outbox rows of those of `ids` that are not dead.
    async fn waiting_rows(&self, ids: &[JobId]) -> Result<Vec<OutboxRow>, DbError> {
        let waiting = doc! { "_id": { "$in": ids.to_vec() }, "dead_at": null };
        let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
        self.store()
            .records::<OutboxRow>(PlatformScope)
            .list(waiting, doc! { "_id": 1 }, limit)
            .await
    }

    /// The current envelopes of those of `ids` that the history can record, if it is enabled. Held
    /// jobs are not searched for, because that would take longer the more there are; their `rows`
    /// contain everything but the number of attempts.
    async fn known(
        &self,
        queue: Queue,
        ids: &[JobId],
        rows: &[OutboxRow],
    ) -> Result<Vec<Envelope>, ControlError> {
        if self.broker().config().history_ttl.is_none() {
            return Ok(Vec::new());
        }
        let mut known = Vec::with_capacity(ids.len());
        for (id, place) in ids.iter().zip(self.broker().places(queue, ids).await?) {
            known.extend(match place {
                Some(Place::Stream(_) | Place::Delayed) => {
                    let found = self.broker().look(queue, *id).await?;
                    found.and_then(|found| Envelope::from_bytes(&found.body).ok())
                }
                Some(Place::Held) | None => {
                    rows.iter().find(|row| row.id == *id).map(Envelope::of_row).transpose()?
                }
            });
        }
        Ok(known)
    }

    /// Records removed jobs in the history; the workers record those that were running.
    async fn record_removed<'a>(
        &self,
        queue: Queue,
        known: &[Envelope],
        results: impl Iterator<Item = (&'a JobId, &'a Cancelled)>,
    ) {
        let Some(ttl) = self.broker().config().history_ttl else { return };
        let now = self.store().clock().now();
        let removed: HashSet<&JobId> = results
            .filter(|(_, result)| **result == Cancelled::Removed)
            .map(|(id, _)| id)
            .collect();
        let entries = known.iter().filter(|envelope| removed.contains(&envelope.id));
        let entries: Vec<HistoryEntry> =
            entries.map(|envelope| HistoryEntry::cancelled(queue, envelope, now, ttl)).collect();
        history::write(self.store(), &entries).await;
    }

    /// Removes outbox rows; returns their ids.
    async fn remove_rows(&self, rows: &[OutboxRow]) -> Result<Vec<JobId>, DbError> {
        let rows: Vec<JobId> = rows.iter().map(|row| row.id).collect();
        let following = remove_rows(self.store(), &rows).await?;
        hand_over_rows(
            self.store(),
            self.broker(),
            &following,
            self.store().clock().now().timestamp_millis(),
        )
        .await;
        Ok(rows)
    }

    /// Runs delayed jobs of `queue` now instead of at their due time: retries, or jobs staged for
    /// later. Returns how many were delayed. On error, some may still wait.
    pub async fn run_now(&self, queue: Queue, jobs: &[JobId]) -> Result<usize, ControlError> {
        let mut moved = 0;
        for ids in jobs.chunks(BATCH) {
            // The rows first: they decide when a job that Redis loses is enqueued again.
            let filter =
                doc! { "_id": { "$in": ids.to_vec() }, "dead_at": null, "due_at": { "$ne": null } };
            let update = doc! { "$set": { "due_at": self.store().clock().now() } };
            self.store().records::<OutboxRow>(PlatformScope).update_all(filter, update).await?;
            moved += self.broker().hasten(queue, ids).await?;
        }
        if moved > 0 {
            tracing::info!(%queue, jobs = moved, "jobs_run_now");
        }
        Ok(moved)
    }
}
