//! Enqueues jobs, and moves delayed jobs to the stream when they are due.

use std::time::Duration;

use common::id::JobId;
use redis::RedisResult;

use super::{Broker, DROP, PROMOTE, PUSH, TAKE, id_bytes, millis};
use crate::{Envelope, Queue, queue::group::Group};

/// Jobs enqueued by one call: a script can unpack only a few thousand arguments at once.
const PUSH_MAX: usize = 1_000;

/// A job to enqueue.
pub(crate) struct Push {
    /// Its id.
    pub(crate) id: JobId,
    pub(crate) group: Group,
    /// How long it is delayed; zero for no delay.
    pub(crate) delay: Duration,
    /// Window and key; empty if the job is not unique.
    pub(crate) unique: String,
    /// Its envelope.
    pub(crate) body: Vec<u8>,
}

impl Push {
    /// The job of `envelope`, to start now or at its own due time. Fails if the envelope cannot be
    /// serialized, which its types rule out.
    pub(crate) fn new(envelope: &Envelope, now_ms: i64) -> Result<Self, serde_json::Error> {
        let wait = envelope.due_at.map_or(0, |due| due.saturating_sub(now_ms));
        Ok(Self {
            id: envelope.id,
            group: Group::of(envelope.tenant),
            delay: Duration::from_millis(u64::try_from(wait).unwrap_or_default()),
            unique: envelope
                .unique
                .as_ref()
                .map(|unique| unique.as_str().to_owned())
                .unwrap_or_default(),
            body: envelope.to_bytes()?,
        })
    }
}

/// How jobs are enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandIn {
    /// Without an outbox row, under a new id.
    Direct,
    /// From the outbox, probably for the first time. A job that finished recently is dropped.
    Staged,
    /// From the outbox, possibly again: the row must be checked before the job runs.
    Again,
    /// As [`HandIn::Again`], for a job that Redis had and lost. It is not dropped, even if another
    /// job has its unique key by now.
    Lost,
}

impl HandIn {
    const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Staged => "staged",
            Self::Again => "again",
            Self::Lost => "lost",
        }
    }
}

/// Result of enqueueing jobs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// Number of jobs that were new to Redis.
    pub(crate) taken: usize,
    /// Jobs that were dropped because another job has their unique key.
    pub(crate) duplicates: Vec<JobId>,
}

/// Where Redis has a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the stream as this entry, waiting to be fetched or running.
    Stream(String),
    /// Delayed.
    Delayed,
    /// Waiting behind other jobs of its tenant.
    Held,
}

impl Place {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        match bytes.first() {
            Some(b'd') => Self::Delayed,
            Some(b'w') => Self::Held,
            _ => Self::Stream(String::from_utf8_lossy(bytes).into_owned()),
        }
    }
}

impl Broker {
    /// Enqueues jobs. On error, some of them may have been enqueued.
    pub(crate) async fn push(
        &self,
        queue: Queue,
        jobs: &[Push],
        how: HandIn,
    ) -> RedisResult<Pushed> {
        let mut pushed = Pushed::default();
        for batch in jobs.chunks(PUSH_MAX) {
            let Pushed { taken, duplicates } = self.push_batch(queue, batch, how).await?;
            pushed.taken += taken;
            pushed.duplicates.extend(duplicates);
        }
        Ok(pushed)
    }

    async fn push_batch(&self, queue: Queue, jobs: &[Push], how: HandIn) -> RedisResult<Pushed> {
        let mut call = self.call_admitting(&PUSH, queue);
        call.arg(how.name());
        for job in jobs {
            call.arg(id_bytes(job.id).as_slice()).arg(job.group.bytes()).arg(millis(job.delay));
            call.arg(&job.unique).arg(job.body.as_slice());
        }
        let answer: Vec<usize> = call.invoke_async(&mut self.connection()).await?;
        let (taken, dropped) =
            answer.split_first().map_or((0, [].as_slice()), |(taken, dropped)| (*taken, dropped));
        let duplicates = dropped
            .iter()
            .filter_map(|number| Some(jobs.get(number.checked_sub(1)?)?.id))
            .collect();
        Ok(Pushed { taken, duplicates })
    }

    /// Remembers jobs that were dropped because another job has their unique key, so that
    /// enqueueing one of them late drops it too. Returns those that have not been enqueued in the
    /// meantime.
    pub(crate) async fn drop_for_good(
        &self,
        queue: Queue,
        ids: &[JobId],
    ) -> RedisResult<Vec<JobId>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = self.call(&DROP, queue);
        call.arg(millis(self.jobs.finished_memory)).arg(self.jobs.finished_max);
        for id in ids {
            call.arg(id_bytes(*id).as_slice());
        }
        let dropped: Vec<usize> = call.invoke_async(&mut self.connection()).await?;
        Ok(dropped
            .into_iter()
            .filter_map(|number| ids.get(number.checked_sub(1)?).copied())
            .collect())
    }

    /// Moves up to `batch` due jobs to the stream. Returns how many, and the time until the next
    /// check is needed.
    pub(crate) async fn promote(
        &self,
        queue: Queue,
        batch: usize,
    ) -> RedisResult<(usize, Option<Duration>)> {
        let mut call = self.call_admitting(&PROMOTE, queue);
        let (moved, next): (usize, i64) =
            call.arg(batch).invoke_async(&mut self.connection()).await?;
        Ok((moved, u64::try_from(next).ok().map(Duration::from_millis)))
    }

    /// Takes up to `wanted` tokens of the queue's rate. Returns how many there were, or the time
    /// until the next one.
    pub(crate) async fn take_turns(
        &self,
        queue: Queue,
        wanted: usize,
    ) -> RedisResult<Result<usize, Duration>> {
        let Some(rate) = self.settings(queue).rate else { return Ok(Ok(wanted)) };
        let mut call = self.call(&TAKE, queue);
        call.arg((rate.interval().as_secs_f64() * 1_000.0).to_string())
            .arg(rate.burst())
            .arg(wanted);
        let (taken, wait): (usize, u64) = call.invoke_async(&mut self.connection()).await?;
        Ok(if taken > 0 { Ok(taken) } else { Err(Duration::from_millis(wait)) })
    }

    /// Which of `ids` are ready, running, held back or delayed, and where.
    pub(crate) async fn places(
        &self,
        queue: Queue,
        ids: &[JobId],
    ) -> RedisResult<Vec<Option<Place>>> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.key(queue, "jobs"));
        for id in ids {
            command.arg(id_bytes(*id).as_slice());
        }
        let places: Vec<Option<Vec<u8>>> = command.query_async(&mut self.connection()).await?;
        Ok(places.into_iter().map(|place| place.as_deref().map(Place::from_bytes)).collect())
    }
}
