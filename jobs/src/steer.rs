//! What an operator does with queues and jobs: pausing, resuming, cancelling, running sooner.

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
    #[error(
        "{job} waits in the queue `{queue}`, which this release does not know; ask with the release that staged it"
    )]
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
    /// It runs; its worker was asked to stop it and does so within moments, at the latest when it
    /// next renews its lease. If its attempt fails before that, it is gone as well.
    Asked,
}

impl Cancelled {
    /// Its name in logs and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::TakenOut => "taken_out",
            Self::Asked => "asked",
        }
    }
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Jobs {
    /// Keeps the jobs of `queue` waiting in every worker until it is resumed. What runs goes on.
    /// Pausing a paused queue changes nothing, and answers the pause that was there.
    ///
    /// # Errors
    /// See [`SteerError`]. When only Redis fails, the workers take notice a few seconds later.
    pub async fn pause(&self, queue: Queue, reason: &str) -> Result<Option<Pause>, SteerError> {
        let before = Pause::begin(self.store(), queue, reason).await?;
        match &before {
            None => tracing::info!(%queue, reason, "queue_pause_asked"),
            Some(before) => {
                tracing::info!(%queue, since = rfc3339(before.paused_at), reason = before.reason, "queue_already_paused");
            }
        }
        // Even so: a worker may have missed it.
        self.broker().announce_pause(queue).await?;
        Ok(before)
    }

    /// Lets the jobs of `queue` run again; tells whether it was paused.
    ///
    /// # Errors
    /// See [`SteerError`]. When only Redis fails, the workers take notice a few seconds later.
    pub async fn resume(&self, queue: Queue) -> Result<bool, SteerError> {
        let was_paused = Pause::end(self.store(), queue).await?;
        tracing::info!(%queue, "{}", if was_paused { "queue_resume_asked" } else { "queue_not_paused" });
        self.broker().announce_pause(queue).await?;
        Ok(was_paused)
    }

    /// Whether `queue` is paused, since when and why.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn paused(&self, queue: Queue) -> Result<Option<Pause>, DbError> {
        Pause::of(self.store(), queue).await
    }

    /// Cancels jobs of `queue`: each will not run, or stops where it is at its next `await`. What
    /// it has done by then stays done. Answers what became of each, in order; the history keeps it,
    /// see [`Ended::Cancelled`](history::Ended::Cancelled).
    ///
    /// # Errors
    /// See [`SteerError`]; then some may still run.
    pub async fn cancel(&self, queue: Queue, jobs: &[JobId]) -> Result<Vec<Cancelled>, SteerError> {
        let mut cancelled = Vec::with_capacity(jobs.len());
        for ids in jobs.chunks(BATCH) {
            let rows = self.waiting_rows(ids).await?;
            // Nobody knows afterwards what was taken out.
            let known = self.known(queue, ids, &rows).await?;
            // The rows first: without one its job will not be handed over again.
            let rows = self.remove_rows(&rows).await?;
            // A hand-over that is under way comes too late.
            self.broker().remember(queue, &rows).await?;
            let answers = self.broker().cancel(queue, ids).await?;
            let begun = cancelled.len();
            for (id, answer) in ids.iter().zip(answers) {
                let became = match answer {
                    queue::Cancelled::TakenOut => Cancelled::TakenOut,
                    queue::Cancelled::Asked => Cancelled::Asked,
                    // It had not reached Redis yet, and is not taken there any more.
                    queue::Cancelled::Unknown if rows.contains(id) => Cancelled::TakenOut,
                    queue::Cancelled::Unknown => Cancelled::Unknown,
                };
                tracing::info!(%queue, job = %id, %became, "job_cancel_asked");
                cancelled.push(became);
            }
            self.keep_taken_out(queue, &known, ids.iter().zip(&cancelled[begun..])).await;
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

    /// Those of `ids` that can be told of in the history, if there is one, as they are now. Jobs
    /// that wait behind others of their tenant are not searched for, which would take the longer
    /// the more there are; their `rows` tell all but the attempts.
    async fn known(
        &self,
        queue: Queue,
        ids: &[JobId],
        rows: &[OutboxRow],
    ) -> Result<Vec<Envelope>, SteerError> {
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
                    rows.iter().find(|row| row.id == *id).map(OutboxRow::envelope).transpose()?
                }
            });
        }
        Ok(known)
    }

    /// Writes into the history which jobs were taken out; whoever runs the others writes of those.
    async fn keep_taken_out<'a>(
        &self,
        queue: Queue,
        known: &[Envelope],
        became: impl Iterator<Item = (&'a JobId, &'a Cancelled)>,
    ) {
        let Some(ttl) = self.broker().config().history_ttl else { return };
        let now = self.store().clock().now();
        let taken_out: HashSet<&JobId> = became
            .filter(|(_, became)| **became == Cancelled::TakenOut)
            .map(|(id, _)| id)
            .collect();
        let entries = known.iter().filter(|envelope| taken_out.contains(&envelope.id));
        let entries: Vec<HistoryEntry> =
            entries.map(|envelope| HistoryEntry::taken_out(queue, envelope, now, ttl)).collect();
        history::write(self.store(), &entries).await;
    }

    /// Removes outbox rows; answers whose they were.
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

    /// Lets delayed jobs of `queue` run now instead of at their time: a retry that need not wait
    /// any longer, or a job that was staged for later. Answers how many were delayed.
    ///
    /// # Errors
    /// See [`SteerError`]; then some may still wait.
    pub async fn run_now(&self, queue: Queue, jobs: &[JobId]) -> Result<usize, SteerError> {
        let mut hastened = 0;
        for ids in jobs.chunks(BATCH) {
            // The rows first: what Redis loses is handed over again as they say.
            let filter =
                doc! { "_id": { "$in": ids.to_vec() }, "dead_at": null, "due_at": { "$ne": null } };
            let update = doc! { "$set": { "due_at": self.store().clock().now() } };
            self.store().records::<OutboxRow>(PlatformScope).update_all(filter, update).await?;
            hastened += self.broker().hasten(queue, ids).await?;
        }
        if hastened > 0 {
            tracing::info!(%queue, jobs = hastened, "jobs_hastened");
        }
        Ok(hastened)
    }
}
