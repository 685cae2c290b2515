//! Steering: what operators do to queues and jobs.
//!
//! The job engine acts in Redis, outside of transactions. So an operator's command records what it is
//! about to do, with the operator and their reason, and then does it: nothing is done that was not
//! recorded.

use common::{
    db::{Change, DbError, Txn},
    id::JobId,
};
use jobs::Queue;

use crate::activity::{Action, Entry};

/// Jobs named in one event.
const JOBS_MAX: usize = 500;

/// What an operator does to a queue or to jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steering {
    /// Pauses the queue.
    Pause,
    /// Resumes the queue.
    Resume,
    /// Retries failed jobs.
    Retry,
    /// Runs delayed jobs before they are due.
    RunNow,
    /// Cancels jobs.
    Cancel,
    /// Deletes dead letters.
    Delete,
}

impl Steering {
    const fn action(self) -> Action {
        match self {
            Self::Pause => Action::QueuePaused,
            Self::Resume => Action::QueueResumed,
            Self::Retry => Action::JobRetried,
            Self::RunNow => Action::JobRunNow,
            Self::Cancel => Action::JobCancelled,
            Self::Delete => Action::JobDeleted,
        }
    }
}

/// Records what an operator is about to do.
#[derive(Debug)]
pub struct RecordSteering<'a> {
    /// What they do.
    pub steering: Steering,
    /// The queue, or that of the jobs.
    pub queue: Queue,
    /// The jobs; none if the queue itself is steered, or dead letters cannot be read.
    pub jobs: &'a [JobId],
}

impl Change for RecordSteering<'_> {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        let event = Entry::new(self.steering.action(), self.queue);
        if self.jobs.is_empty() {
            return event.record_on_platform(txn).await;
        }
        for jobs in self.jobs.chunks(JOBS_MAX) {
            event.clone().on_all(jobs).record_on_platform(txn).await?;
        }
        Ok(())
    }
}
