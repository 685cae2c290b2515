//! What became of jobs that were run. Only the consumer that still holds an entry may say so; each
//! operation answers how many it held.

use std::time::Duration;

use common::id::JobId;
use redis::RedisResult;

use super::{BURY, Broker, DELAY, EntryId, FINISH, HAND_BACK, RELEASE, id_bytes, millis};
use crate::{Queue, queue::group::Group, unique::UniqueKey};

/// A job that is done.
pub(crate) struct Done {
    pub(crate) entry: EntryId,
    pub(crate) id: JobId,
    pub(crate) group: Group,
    pub(crate) unique: Option<UniqueKey>,
}

/// A running job that is to run again later.
pub(crate) struct Delay {
    pub(crate) entry: EntryId,
    pub(crate) id: JobId,
    pub(crate) group: Group,
    pub(crate) wait: Duration,
    pub(crate) body: Vec<u8>,
}

/// A running job that goes to the dead letters.
pub(crate) struct Bury {
    pub(crate) entry: EntryId,
    /// None where its bytes tell none.
    pub(crate) id: Option<JobId>,
    pub(crate) group: Group,
    pub(crate) unique: Option<UniqueKey>,
    pub(crate) letter: Vec<u8>,
}

impl Broker {
    /// Lets go of jobs that are done. With `remember`, a later hand-over of their ids is dropped.
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
            call.arg(&job.entry).arg(id_bytes(job.id).as_slice()).arg(job.group.bytes());
        }
        for job in jobs {
            if let Some(key) = job.unique.as_ref().and_then(UniqueKey::held_until_end) {
                call.arg(key).arg(id_bytes(job.id).as_slice());
            }
        }
        call.invoke_async(&mut self.connection()).await
    }

    /// Puts running jobs back to run later.
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
            call.arg(millis(job.wait)).arg(job.body.as_slice());
        }
        call.invoke_async(&mut self.connection()).await
    }

    /// Sends running jobs to the dead letters.
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

    /// Gives fetched jobs back to the queue.
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

    /// Lets go of what a job that has started was unique by.
    pub(crate) async fn release(&self, queue: Queue, key: &str, id: JobId) -> RedisResult<()> {
        let mut call = self.call(&RELEASE, queue);
        let _: usize =
            call.arg(key).arg(id_bytes(id).as_slice()).invoke_async(&mut self.connection()).await?;
        Ok(())
    }
}
