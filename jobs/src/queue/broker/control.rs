//! Statistics of a queue, and commands of operators: cancel jobs, run delayed jobs now, and pause a
//! queue.

use std::time::Duration;

use common::id::JobId;
use redis::RedisResult;

use super::{Broker, CANCEL, HASTEN, STATS, id_bytes};
use crate::{Queue, queue::listen::PAUSE};

/// How many jobs of a queue are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueStats {
    /// Jobs that a worker can fetch now.
    pub ready: u64,
    /// Jobs that a worker has fetched and not finished.
    pub running: u64,
    /// Jobs that are due later.
    pub delayed: u64,
    /// Jobs that wait because their tenant has reached its limit.
    pub held: u64,
    /// Jobs that failed for good and are kept as dead letters.
    pub dead: u64,
    /// How long the oldest ready job has waited.
    pub oldest_age: Duration,
    /// Those of the delayed jobs that failed and wait for their next attempt.
    pub retrying: u64,
    /// How long ago the job that has been failing for longest first failed; zero if none is failing.
    pub oldest_failing_age: Duration,
    /// Those of the delayed jobs whose time has come, but which no worker has made ready yet.
    pub due: u64,
}

impl QueueStats {
    /// Those of the delayed jobs that have not failed: future work, and jobs that no worker knows.
    #[must_use]
    pub const fn scheduled(&self) -> u64 {
        self.delayed.saturating_sub(self.retrying)
    }
}

/// What cancelling did to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancelled {
    /// Redis does not know it: it has ended, is a dead letter, or never existed.
    Unknown,
    /// It had not started, and was removed.
    TakenOut,
    /// It is running; its worker was asked to stop it.
    Asked,
}

impl Broker {
    /// Counts the jobs of `queue` by state. Fails if Redis fails.
    pub async fn stats(&self, queue: Queue) -> RedisResult<QueueStats> {
        let call = self.call(&STATS, queue);
        let [ready, running, delayed, held, dead, age_ms, retrying, failing_ms, due]: [u64; 9] =
            call.invoke_async(&mut self.connection()).await?;
        Ok(QueueStats {
            ready,
            running,
            delayed,
            held,
            dead,
            oldest_age: Duration::from_millis(age_ms),
            retrying,
            oldest_failing_age: Duration::from_millis(failing_ms),
            due,
        })
    }

    /// Asks every worker to check whether `queue` is paused.
    pub(crate) async fn announce_pause(&self, queue: Queue) -> RedisResult<()> {
        let _: usize = redis::cmd("PUBLISH")
            .arg(self.key(queue, "wake"))
            .arg(PAUSE)
            .query_async(&mut self.connection())
            .await?;
        Ok(())
    }

    /// Makes delayed jobs due now. Returns how many were delayed.
    pub(crate) async fn hasten(&self, queue: Queue, ids: &[JobId]) -> RedisResult<usize> {
        let mut call = self.call(&HASTEN, queue);
        for id in ids {
            call.arg(id_bytes(*id).as_slice());
        }
        call.invoke_async(&mut self.connection()).await
    }

    /// Remembers jobs as if they had finished, so that enqueueing them from the outbox has no
    /// effect.
    pub(crate) async fn remember(&self, queue: Queue, ids: &[JobId]) -> RedisResult<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("SADD");
        command.arg(self.key(queue, "finished"));
        for id in ids {
            command.arg(id_bytes(*id).as_slice());
        }
        let _: usize = command.query_async(&mut self.connection()).await?;
        Ok(())
    }

    /// Removes jobs that have not started, and asks workers to stop running ones. Returns the
    /// results in order.
    pub(crate) async fn cancel(&self, queue: Queue, ids: &[JobId]) -> RedisResult<Vec<Cancelled>> {
        let mut call = self.call_admitting(&CANCEL, queue);
        for id in ids {
            call.arg(id_bytes(*id).as_slice());
        }
        let answers: Vec<u8> = call.invoke_async(&mut self.connection()).await?;
        let understood = |answer| match answer {
            0 => Cancelled::Unknown,
            1 => Cancelled::TakenOut,
            _ => Cancelled::Asked,
        };
        Ok(answers.into_iter().map(understood).collect())
    }
}
