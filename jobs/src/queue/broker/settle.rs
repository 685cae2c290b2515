//! Settles jobs that ran. Only the consumer that still owns an entry can settle it; each operation
//! returns how many entries the consumer owned.

use std::time::Duration;

use common::id::JobId;
use redis::RedisResult;

use super::{BURY, Broker, DELAY, EntryId, FINISH, HAND_BACK, RELEASE, id_bytes, millis};
use crate::{Queue, queue::group::Group, unique::UniqueKey};

/// A finished job.
pub(crate) struct Done {
    pub(crate) entry: EntryId,
    /// None if the engine did not write the entry.
    pub(crate) id: Option<JobId>,
    pub(crate) group: Group,
    pub(crate) unique: Option<UniqueKey>,
}

/// A running job that runs again later.
pub(crate) struct Delay {
    pub(crate) entry: EntryId,
    pub(crate) id: JobId,
    pub(crate) group: Group,
    pub(crate) wait: Duration,
    /// Whether it failed. Otherwise it is parked, or it is too early for it.
    pub(crate) failed: bool,
    pub(crate) body: Vec<u8>,
}

/// A running job that becomes a dead letter.
pub(crate) struct Bury {
    pub(crate) entry: EntryId,
    /// None if it cannot be determined from the bytes.
    pub(crate) id: Option<JobId>,
    pub(crate) group: Group,
    pub(crate) unique: Option<UniqueKey>,
    pub(crate) letter: Vec<u8>,
}

impl Broker {
    /// Removes finished jobs. With `remember`, enqueueing their ids again has no effect for a
    /// while.
    pub(crate) async fn finish(
        &self,
        queue: Queue,
        consumer: &str,
        jobs: &[Done],
        remember: bool,
    ) -> RedisResult<usize> {
        let memory = if remember { millis(self.jobs.finished_memory) } else { 0 };
        let mut call = self.call_admitting(&FINISH, queue);
        call.arg(consumer).arg(memory).arg(self.jobs.finished_max).arg(jobs.len());
        for job in jobs {
            let id = job.id.map(id_bytes);
            call.arg(&job.entry).arg(id.as_ref().map_or(&[][..], |id| id.as_slice()));
            call.arg(job.group.bytes());
        }
        for job in jobs {
            if let (Some(id), Some(key)) =
                (job.id, job.unique.as_ref().and_then(UniqueKey::held_until_end))
            {
                call.arg(key).arg(id_bytes(id).as_slice());
            }
        }
        call.invoke_async(&mut self.connection()).await
    }

    /// Delays running jobs.
    pub(crate) async fn delay(
        &self,
        queue: Queue,
        consumer: &str,
        jobs: &[Delay],
    ) -> RedisResult<usize> {
        let mut call = self.call_admitting(&DELAY, queue);
        call.arg(consumer);
        for job in jobs {
            call.arg(&job.entry).arg(id_bytes(job.id).as_slice()).arg(job.group.bytes());
            call.arg(millis(job.wait)).arg(u8::from(job.failed)).arg(job.body.as_slice());
        }
        call.invoke_async(&mut self.connection()).await
    }

    /// Dead-letters running jobs.
    pub(crate) async fn bury(
        &self,
        queue: Queue,
        consumer: &str,
        jobs: &[Bury],
    ) -> RedisResult<usize> {
        let mut call = self.call_admitting(&BURY, queue);
        call.arg(consumer)
            .arg(millis(self.jobs.dead_retention))
            .arg(self.jobs.dead_max)
            .arg(jobs.len());
        for job in jobs {
            let id = job.id.map(id_bytes);
            call.arg(&job.entry).arg(id.as_ref().map_or(&[][..], |id| id.as_slice()));
            call.arg(job.group.bytes()).arg(job.letter.as_slice());
        }
        for job in jobs {
            if let (Some(id), Some(key)) =
                (job.id, job.unique.as_ref().and_then(UniqueKey::held_until_end))
            {
                call.arg(key).arg(id_bytes(id).as_slice());
            }
        }
        call.invoke_async(&mut self.connection()).await
    }

    /// Returns fetched jobs to the queue.
    pub(crate) async fn hand_back(
        &self,
        queue: Queue,
        consumer: &str,
        entries: &[EntryId],
    ) -> RedisResult<usize> {
        self.call_admitting(&HAND_BACK, queue)
            .arg(consumer)
            .arg(entries)
            .invoke_async(&mut self.connection())
            .await
    }

    /// Releases a key that is unique until its job starts.
    pub(crate) async fn release(&self, queue: Queue, key: &str, id: JobId) -> RedisResult<()> {
        let mut call = self.call(&RELEASE, queue);
        let _: usize =
            call.arg(key).arg(id_bytes(id).as_slice()).invoke_async(&mut self.connection()).await?;
        Ok(())
    }
}
