//! Every queue in Redis: one method an operation, each a single script or command on one slot.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use common::{config, id::JobId};
use redis::{RedisResult, Script};
use tokio::sync::Notify;

use super::{
    connections::Connections,
    keys::{GROUP, Keys},
};
use crate::{Envelope, Queue};

macro_rules! scripts {
    ($($name:ident = $file:literal;)+) => {
        $(static $name: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file, ".lua"))));)+
    };
}

scripts! {
    PUSH = "push";
    FINISH = "finish";
    DELAY = "delay";
    BURY = "bury";
    HAND_BACK = "hand_back";
    OPEN = "open";
    PROMOTE = "promote";
    RENEW = "renew";
    FORGET_CONSUMERS = "forget_consumers";
    REPLAY = "replay";
    STATS = "stats";
}

/// The queues of one installation in Redis. Cheap to clone; clones share a connection, which
/// reconnects by itself.
#[derive(Clone)]
pub struct Broker {
    connections: Connections,
    prefix: String,
    jobs: config::Jobs,
    loss_suspected: Arc<Notify>,
}

/// An entry of a stream: what Redis calls the job while it waits or runs.
pub(crate) type EntryId = String;

/// A job to be handed to Redis.
pub(crate) struct Push {
    /// Its id.
    pub(crate) id: JobId,
    /// How long it is to wait first; zero for not at all.
    pub(crate) delay: Duration,
    /// Its envelope.
    pub(crate) body: Vec<u8>,
}

impl Push {
    /// `envelope`, due at once or at its own time.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which its types rule out.
    pub(crate) fn new(envelope: &Envelope, now_ms: i64) -> Result<Self, serde_json::Error> {
        let wait = envelope.due_at.map_or(0, |due| due.saturating_sub(now_ms));
        let delay = Duration::from_millis(u64::try_from(wait).unwrap_or_default());
        Ok(Self { id: envelope.id, delay, body: envelope.to_bytes()? })
    }
}

/// A running job that is to run again later.
pub(crate) struct Delay {
    pub(crate) entry: EntryId,
    pub(crate) id: JobId,
    pub(crate) wait: Duration,
    pub(crate) body: Vec<u8>,
}

/// A running job that goes to the dead letters.
pub(crate) struct Bury {
    pub(crate) entry: EntryId,
    /// The job's id, or the entry's where the bytes tell none.
    pub(crate) key: Vec<u8>,
    pub(crate) letter: Vec<u8>,
}

/// An entry whose consumer has fallen silent.
pub(crate) struct Abandoned {
    pub(crate) entry: EntryId,
    pub(crate) consumer: String,
    /// How often it was delivered; each time but the last it ended its worker.
    pub(crate) deliveries: u64,
}

/// How a queue stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueStats {
    /// Jobs that wait to be fetched.
    pub ready: u64,
    /// Jobs that a worker holds.
    pub running: u64,
    /// Jobs that wait for their time.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
    /// How long the oldest ready job has waited.
    pub oldest_age: Duration,
}

impl Broker {
    /// Connects at the first command.
    ///
    /// # Errors
    /// When the address cannot be understood.
    pub fn new(redis: &config::Redis, jobs: &config::Jobs) -> RedisResult<Self> {
        Ok(Self {
            connections: Connections::new(redis)?,
            prefix: redis.key_prefix.clone(),
            jobs: jobs.clone(),
            loss_suspected: Arc::default(),
        })
    }

    /// The ways to Redis.
    pub(crate) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The engine's configuration.
    pub(crate) fn config(&self) -> &config::Jobs {
        &self.jobs
    }

    /// What stands before every key.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn keys(&self, queue: Queue) -> Keys {
        Keys::new(&self.prefix, queue)
    }

    /// Tells the relay that Redis may have lost jobs: the one of this process at once, whichever
    /// leads when it next compares epochs.
    pub(crate) async fn suspect_loss(&self) -> RedisResult<()> {
        let _: usize = redis::cmd("DEL").arg(self.epoch_key()).query_async(&mut self.connections.shared()).await?;
        self.loss_suspected.notify_one();
        Ok(())
    }

    fn epoch_key(&self) -> String {
        format!("{}:epoch", self.prefix)
    }

    /// Resolves when somebody in this process suspects that Redis lost jobs.
    pub(crate) async fn loss_suspected(&self) {
        self.loss_suspected.notified().await;
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> RedisResult<()> {
        redis::cmd("PING").query_async(&mut self.connections.shared()).await
    }

    /// Makes the consumer group where it is missing; tells whether jobs may have been lost with it.
    pub(crate) async fn open(&self, queue: Queue) -> RedisResult<bool> {
        let keys = self.keys(queue);
        let mut call = OPEN.prepare_invoke();
        call.key(&keys.stream).key(&keys.known).key(&keys.delayed);
        match call.invoke_async(&mut self.connections.shared()).await {
            // Another worker made it at the same moment.
            Err(error) if error.code() == Some("BUSYGROUP") => Ok(false),
            opened => opened,
        }
    }

    /// Hands jobs over; answers how many Redis did not know. `redelivered` marks those whose
    /// outbox row is to be looked at before they run.
    pub(crate) async fn push(&self, queue: Queue, jobs: &[Push], redelivered: bool) -> RedisResult<usize> {
        let keys = self.keys(queue);
        let mut call = PUSH.prepare_invoke();
        call.key(&keys.stream).key(&keys.known).key(&keys.finished).key(&keys.finished_before);
        call.key(&keys.delayed).key(&keys.bodies).arg(if redelivered { "1" } else { "" }).arg(&keys.wake);
        for job in jobs {
            call.arg(id_bytes(job.id).as_slice()).arg(millis(job.delay)).arg(job.body.as_slice());
        }
        call.invoke_async(&mut self.connections.shared()).await
    }

    /// Lets go of jobs that are done; answers how many `consumer` still held.
    pub(crate) async fn finish(&self, queue: Queue, consumer: &str, jobs: &[(EntryId, JobId)]) -> RedisResult<usize> {
        let keys = self.keys(queue);
        let mut call = FINISH.prepare_invoke();
        call.key(&keys.stream).key(&keys.known).key(&keys.finished).key(&keys.finished_before).key(&keys.finished_since);
        call.arg(consumer).arg(millis(self.jobs.finished_memory)).arg(self.jobs.finished_max);
        for (entry, id) in jobs {
            call.arg(entry).arg(id_bytes(*id).as_slice());
        }
        call.invoke_async(&mut self.connections.shared()).await
    }

    /// Puts running jobs back to run later; answers how many `consumer` still held.
    pub(crate) async fn delay(&self, queue: Queue, consumer: &str, jobs: &[Delay]) -> RedisResult<usize> {
        let keys = self.keys(queue);
        let mut call = DELAY.prepare_invoke();
        call.key(&keys.stream).key(&keys.delayed).key(&keys.bodies).arg(consumer).arg(&keys.wake);
        for job in jobs {
            call.arg(&job.entry).arg(id_bytes(job.id).as_slice()).arg(millis(job.wait)).arg(job.body.as_slice());
        }
        call.invoke_async(&mut self.connections.shared()).await
    }

    /// Sends running jobs to the dead letters; answers how many `consumer` still held.
    pub(crate) async fn bury(&self, queue: Queue, consumer: &str, jobs: &[Bury]) -> RedisResult<usize> {
        let keys = self.keys(queue);
        let mut call = BURY.prepare_invoke();
        call.key(&keys.stream).key(&keys.known).key(&keys.dead).key(&keys.dead_bodies);
        call.arg(consumer).arg(millis(self.jobs.dead_retention)).arg(self.jobs.dead_max);
        for job in jobs {
            call.arg(&job.entry).arg(job.key.as_slice()).arg(job.letter.as_slice());
        }
        call.invoke_async(&mut self.connections.shared()).await
    }

    /// Gives fetched jobs back to the queue; answers how many `consumer` still held.
    pub(crate) async fn hand_back(&self, queue: Queue, consumer: &str, entries: &[EntryId]) -> RedisResult<usize> {
        let mut call = HAND_BACK.prepare_invoke();
        call.key(self.keys(queue).stream).arg(consumer).arg(entries);
        call.invoke_async(&mut self.connections.shared()).await
    }

    /// Moves up to `batch` jobs whose time has come to the stream; answers how many moved and how
    /// long until the next is due.
    pub(crate) async fn promote(&self, queue: Queue, batch: usize) -> RedisResult<(usize, Option<Duration>)> {
        let keys = self.keys(queue);
        let mut call = PROMOTE.prepare_invoke();
        call.key(&keys.stream).key(&keys.known).key(&keys.delayed).key(&keys.bodies).arg(batch);
        let (moved, next): (usize, i64) = call.invoke_async(&mut self.connections.shared()).await?;
        Ok((moved, u64::try_from(next).ok().map(Duration::from_millis)))
    }

    /// Renews the leases of `entries`; answers those that `consumer` does not hold any more.
    pub(crate) async fn renew(&self, queue: Queue, consumer: &str, entries: &[EntryId]) -> RedisResult<Vec<EntryId>> {
        let mut call = RENEW.prepare_invoke();
        call.key(self.keys(queue).stream).arg(consumer).arg(entries);
        call.invoke_async(&mut self.connections.shared()).await
    }

    /// Up to `limit` entries after `after` whose lease has run out.
    pub(crate) async fn abandoned(&self, queue: Queue, after: Option<&EntryId>, limit: usize) -> RedisResult<Vec<Abandoned>> {
        let start = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
        let mut command = redis::cmd("XPENDING");
        command.arg(self.keys(queue).stream).arg(GROUP).arg("IDLE").arg(millis(self.jobs.lease)).arg(start).arg("+").arg(limit);
        let rows: Vec<(EntryId, String, u64, u64)> = command.query_async(&mut self.connections.shared()).await?;
        Ok(rows.into_iter().map(|(entry, consumer, _, deliveries)| Abandoned { entry, consumer, deliveries }).collect())
    }

    /// How many entries `consumer` holds, and how many others do.
    pub(crate) async fn held(&self, queue: Queue, consumer: &str) -> RedisResult<(usize, usize)> {
        let mut command = redis::cmd("XPENDING");
        command.arg(self.keys(queue).stream).arg(GROUP);
        let summary: redis::streams::StreamPendingReply = command.query_async(&mut self.connections.shared()).await?;
        let redis::streams::StreamPendingReply::Data(data) = summary else { return Ok((0, 0)) };
        let ours = data.consumers.iter().find(|row| row.name == consumer).map_or(0, |row| row.pending);
        Ok((ours, data.count.saturating_sub(ours)))
    }

    /// Takes over entries whose lease has still run out; whoever of several workers comes first
    /// gets each.
    pub(crate) async fn claim(&self, queue: Queue, consumer: &str, entries: &[EntryId]) -> RedisResult<Vec<redis::streams::StreamId>> {
        let mut command = redis::cmd("XCLAIM");
        command.arg(self.keys(queue).stream).arg(GROUP).arg(consumer).arg(millis(self.jobs.lease)).arg(entries);
        let claimed: redis::streams::StreamClaimReply = command.query_async(&mut self.connections.shared()).await?;
        Ok(claimed.ids)
    }

    /// Removes consumers that hold nothing and have been silent for `silence`.
    pub(crate) async fn forget_consumers(&self, queue: Queue, silence: Duration) -> RedisResult<usize> {
        let mut call = FORGET_CONSUMERS.prepare_invoke();
        call.key(self.keys(queue).stream).arg(millis(silence));
        call.invoke_async(&mut self.connections.shared()).await
    }

    /// Which of `ids` wait, run or are delayed.
    pub(crate) async fn knows(&self, queue: Queue, ids: &[JobId]) -> RedisResult<Vec<bool>> {
        let mut command = redis::cmd("SMISMEMBER");
        command.arg(self.keys(queue).known);
        for id in ids {
            command.arg(id_bytes(*id).as_slice());
        }
        command.query_async(&mut self.connections.shared()).await
    }

    /// Which of `ids` are dead letters.
    pub(crate) async fn has_dead(&self, queue: Queue, ids: &[JobId]) -> RedisResult<Vec<bool>> {
        let mut command = redis::cmd("ZMSCORE");
        command.arg(self.keys(queue).dead);
        for id in ids {
            command.arg(id_bytes(*id).as_slice());
        }
        let scores: Vec<Option<f64>> = command.query_async(&mut self.connections.shared()).await?;
        Ok(scores.into_iter().map(|score| score.is_some()).collect())
    }

    /// Puts a dead letter back that Redis lost.
    pub(crate) async fn restore_dead(&self, queue: Queue, id: JobId, died_at_ms: i64, letter: &[u8]) -> RedisResult<()> {
        let keys = self.keys(queue);
        let mut pipe = redis::pipe();
        pipe.atomic().zadd(&keys.dead, id_bytes(id).as_slice(), died_at_ms).hset(&keys.dead_bodies, id_bytes(id).as_slice(), letter);
        pipe.ignore().query_async(&mut self.connections.shared()).await
    }

    /// Up to `count` dead letters as JSON, newest first, without the newest `skip`.
    pub(crate) async fn dead_letters(&self, queue: Queue, skip: isize, count: isize) -> RedisResult<Vec<Vec<u8>>> {
        let keys = self.keys(queue);
        let connection = &mut self.connections.shared();
        let ids: Vec<Vec<u8>> = redis::cmd("ZREVRANGE").arg(&keys.dead).arg(skip).arg(skip + count - 1).query_async(connection).await?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let letters: Vec<Option<Vec<u8>>> = redis::cmd("HMGET").arg(&keys.dead_bodies).arg(ids).query_async(connection).await?;
        Ok(letters.into_iter().flatten().collect())
    }

    /// Gives dead letters another try; answers how many were still dead.
    pub(crate) async fn replay(&self, queue: Queue, envelopes: &[Envelope]) -> RedisResult<usize> {
        let keys = self.keys(queue);
        let mut call = REPLAY.prepare_invoke();
        call.key(&keys.stream).key(&keys.known).key(&keys.finished).key(&keys.finished_before);
        call.key(&keys.dead).key(&keys.dead_bodies);
        for envelope in envelopes {
            let body = envelope.to_bytes().map_err(|error| (redis::ErrorKind::Client, "an envelope", error.to_string()))?;
            call.arg(id_bytes(envelope.id).as_slice()).arg(body);
        }
        call.invoke_async(&mut self.connections.shared()).await
    }

    /// How `queue` stands.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn stats(&self, queue: Queue) -> RedisResult<QueueStats> {
        let keys = self.keys(queue);
        let mut call = STATS.prepare_invoke();
        call.key(&keys.stream).key(&keys.delayed).key(&keys.dead);
        let (ready, running, delayed, dead, age_ms): (u64, u64, u64, u64, u64) = call.invoke_async(&mut self.connections.shared()).await?;
        Ok(QueueStats { ready, running, delayed, dead, oldest_age: Duration::from_millis(age_ms) })
    }

    /// What tells one life of Redis' data from the next: changes when the server restarts, fails
    /// over or is flushed. Made if it is not there.
    pub(crate) async fn epoch(&self, fresh: &str) -> RedisResult<String> {
        let connection = &mut self.connections.shared();
        let key = self.epoch_key();
        let _made: bool = redis::cmd("SETNX").arg(&key).arg(fresh).query_async(connection).await?;
        let epoch: Option<String> = redis::cmd("GET").arg(&key).query_async(connection).await?;
        let server: String = redis::cmd("INFO").arg("server").query_async(connection).await?;
        let run = server.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default();
        Ok(format!("{}/{}", epoch.unwrap_or_default(), run.trim()))
    }
}

/// An id as it stands in sets: the bare 16 bytes, less than half of its text.
pub(crate) fn id_bytes(id: JobId) -> [u8; 16] {
    *id.uuid().as_bytes()
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
