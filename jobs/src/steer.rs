//! What an operator does with queues and jobs: pausing, resuming, cancelling.

use common::{
    db::{DbError, PlatformScope},
    id::JobId,
};
use mongodb::bson::doc;

use crate::{
    Jobs, Queue,
    handover::hand_over_rows,
    outbox::{OutboxRow, remove_rows},
    queue::{self, Pause},
};

/// Why a queue or a job could not be steered.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// Redis failed.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What became of a job that was to be cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It is not there: it has ended, is a dead letter, or never was.
    Unknown,
    /// It waited, and will not run.
    TakenOut,
    /// It runs; its worker was asked to stop it and does so within moments, at the latest when it next
    /// renews its lease.
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
        Ok(self.broker().announce_pause(queue).await?)
    }

    /// Lets the jobs of `queue` run again.
    ///
    /// # Errors
    /// See [`SteerError`]. When only Redis fails, the workers take notice a few seconds later.
    pub async fn resume(&self, queue: Queue) -> Result<(), SteerError> {
        Pause::end(self.store(), queue).await?;
        Ok(self.broker().announce_pause(queue).await?)
    }

    /// Whether `queue` is paused, since when and why.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn paused(&self, queue: Queue) -> Result<Option<Pause>, DbError> {
        Pause::of(self.store(), queue).await
    }

    /// Cancels a job: it will not run, or stops where it is at its next `await`. What it has done by
    /// then stays done.
    ///
    /// # Errors
    /// See [`SteerError`]; then it may still run.
    pub async fn cancel(&self, queue: Queue, job: JobId) -> Result<Cancelled, SteerError> {
        // The row first: without it the job will not be handed over again.
        let row = doc! { "_id": job, "dead_at": null };
        let is_staged = self.store().records::<OutboxRow>(PlatformScope).find(row).await?.is_some();
        let following = remove_rows(self.store(), &[job]).await?;
        hand_over_rows(self.store(), self.broker(), &following, self.store().ambient().now().timestamp_millis()).await;
        let cancelled = self.broker().cancel(queue, &[job]).await?;
        Ok(match cancelled.first() {
            Some(queue::Cancelled::TakenOut) => Cancelled::TakenOut,
            Some(queue::Cancelled::Asked) => Cancelled::Asked,
            // It had not reached Redis yet.
            _ if is_staged => Cancelled::TakenOut,
            _ => Cancelled::Unknown,
        })
    }
}
