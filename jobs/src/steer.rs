//! What an operator does with queues and jobs: pausing, resuming, cancelling, running sooner.

use common::{
    db::{DbError, PlatformScope},
    id::JobId,
};
use mongodb::bson::doc;
use serde::Serialize;

use crate::{
    Jobs, Queue,
    handover::hand_over_rows,
    outbox::{OutboxRow, remove_rows},
    queue::{self, Pause},
};

/// Jobs steered in one round trip.
const BATCH: usize = 500;

/// Why a queue or a job could not be seen or steered.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// Redis failed.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A row of the outbox does not hold a job.
    #[error("a row of the outbox cannot be read: {0}")]
    Row(#[from] serde_json::Error),
    /// The outbox has the job for a queue of another release.
    #[error("{job} waits in the queue `{queue}`, which this release does not know; ask with the release that staged it")]
    ForeignQueue {
        /// The job.
        job: JobId,
        /// The queue's name.
        queue: String,
    },
    /// Where a listing is to go on is not what a page has given.
    #[error("this is not where a page of jobs ended; begin again without it")]
    Cursor,
}

/// What became of a job that was to be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cancelled {
    /// It is not there: it has ended, is a dead letter, or never was.
    Unknown,
    /// It waited, and will not run.
    TakenOut,
    /// It runs; its worker was asked to stop it and does so within moments, at the latest when it next
    /// renews its lease. If its attempt fails before that, it is gone as well.
    Asked,
}

impl Jobs {
    /// Keeps the jobs of `queue` waiting in every worker until it is resumed. What runs goes on. Pausing
    /// a paused queue changes nothing.
    ///
    /// # Errors
    /// See [`SteerError`]. When only Redis fails, the workers take notice a few seconds later.
    pub async fn pause(&self, queue: Queue, reason: &str) -> Result<(), SteerError> {
        Pause::begin(self.store(), queue, reason).await?;
        tracing::info!(%queue, reason, "queue_pause_asked");
        Ok(self.broker().announce_pause(queue).await?)
    }

    /// Lets the jobs of `queue` run again.
    ///
    /// # Errors
    /// See [`SteerError`]. When only Redis fails, the workers take notice a few seconds later.
    pub async fn resume(&self, queue: Queue) -> Result<(), SteerError> {
        Pause::end(self.store(), queue).await?;
        tracing::info!(%queue, "queue_resume_asked");
        Ok(self.broker().announce_pause(queue).await?)
    }

    /// Whether `queue` is paused, since when and why.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn paused(&self, queue: Queue) -> Result<Option<Pause>, DbError> {
        Pause::of(self.store(), queue).await
    }

    /// Cancels jobs of `queue`: each will not run, or stops where it is at its next `await`. What it has
    /// done by then stays done. Answers what became of each, in order.
    ///
    /// # Errors
    /// See [`SteerError`]; then some may still run.
    pub async fn cancel(&self, queue: Queue, jobs: &[JobId]) -> Result<Vec<Cancelled>, SteerError> {
        let mut cancelled = Vec::with_capacity(jobs.len());
        for ids in jobs.chunks(BATCH) {
            // The rows first: without one its job will not be handed over again.
            let rows = self.remove_rows(ids).await?;
            // A hand-over that is under way comes too late.
            self.broker().remember(queue, &rows).await?;
            let answers = self.broker().cancel(queue, ids).await?;
            for (id, answer) in ids.iter().zip(answers) {
                let became = match answer {
                    queue::Cancelled::TakenOut => Cancelled::TakenOut,
                    queue::Cancelled::Asked => Cancelled::Asked,
                    // It had not reached Redis yet, and is not taken there any more.
                    queue::Cancelled::Unknown if rows.contains(id) => Cancelled::TakenOut,
                    queue::Cancelled::Unknown => Cancelled::Unknown,
                };
                tracing::info!(%queue, job = %id, ?became, "job_cancel_asked");
                cancelled.push(became);
            }
        }
        Ok(cancelled)
    }

    /// Removes the outbox rows of those of `ids` that are not dead; answers which had one.
    async fn remove_rows(&self, ids: &[JobId]) -> Result<Vec<JobId>, DbError> {
        let waiting = doc! { "_id": { "$in": ids.to_vec() }, "dead_at": null };
        let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
        let rows = self.store().records::<OutboxRow>(PlatformScope).list(waiting, doc! { "_id": 1 }, limit).await?;
        let rows: Vec<JobId> = rows.into_iter().map(|row| row.id).collect();
        let following = remove_rows(self.store(), &rows).await?;
        hand_over_rows(self.store(), self.broker(), &following, self.store().ambient().now().timestamp_millis()).await;
        Ok(rows)
    }

    /// Lets delayed jobs of `queue` run now instead of at their time: a retry that need not wait any
    /// longer, or a job that was staged for later. Answers how many were delayed.
    ///
    /// # Errors
    /// See [`SteerError`]; then some may still wait.
    pub async fn run_now(&self, queue: Queue, jobs: &[JobId]) -> Result<usize, SteerError> {
        let mut hastened = 0;
        for ids in jobs.chunks(BATCH) {
            // The rows first: what Redis loses is handed over again as they say.
            let filter = doc! { "_id": { "$in": ids.to_vec() }, "dead_at": null, "due_at": { "$ne": null } };
            let update = doc! { "$set": { "due_at": self.store().ambient().now() } };
            self.store().records::<OutboxRow>(PlatformScope).update_all(filter, update).await?;
            hastened += self.broker().hasten(queue, ids).await?;
        }
        tracing::info!(%queue, jobs = hastened, "jobs_hastened");
        Ok(hastened)
    }
}
