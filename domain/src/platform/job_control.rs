//! Control of queues and jobs by operators.
//!
//! The job engine keeps jobs in Redis, where transactions of MongoDB do not reach. A command therefore
//! records what the operator is about to do, with their name and reason, before it does it. If the
//! record cannot be written, nothing is done.

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
pub enum JobControl {
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

impl JobControl {
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
pub struct RecordJobControl<'a> {
    /// What they do.
    pub control: JobControl,
    /// The queue, or that of the jobs.
    pub queue: Queue,
    /// The jobs; none if it concerns the queue itself, or dead letters cannot be read.
    pub jobs: &'a [JobId],
}

impl Change for RecordJobControl<'_> {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        let event = Entry::new(self.control.action(), self.queue);
        if self.jobs.is_empty() {
            return event.record_on_platform(txn).await;
        }
        for jobs in self.jobs.chunks(JOBS_MAX) {
            event.clone().on_all(jobs).record_on_platform(txn).await?;
        }
        Ok(())
    }
}
