//! All queues in Redis: one method per operation, each a single script or command on one slot. The
//! operations are grouped by caller: `push` enqueues jobs, `settle` is for consumers that ran them,
//! `lease` renews and takes over leases, and `dead` keeps dead letters. Operators use `inspect` to
//! list jobs and `control` to cancel them, run them now, or pause a queue.

mod control;
mod dead;
mod inspect;
mod lease;
mod push;
mod repair;
mod settle;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use common::{
    config::{self, QueueSettings},
    id::JobId,
    redis::{Connections, Shared},
    telemetry::metrics,
};
use redis::{RedisResult, Script, ScriptInvocation};
use tokio::sync::Notify;

pub(crate) use self::{
    control::Cancelled,
    inspect::{Cursor as PlaceCursor, Found, Spot, entry_millis},
    lease::Abandoned,
    push::{HandIn, Push},
    settle::{Bury, Delay, Done},
};
pub use self::{control::QueueStats, inspect::ConsumerStats, push::Place};
use super::group::limit_args;
use crate::Queue;

/// A script with the shared parts that precede it.
macro_rules! script {
    ($($part:literal)+) => {
        LazyLock::new(|| Script::new(concat!(include_str!("scripts/prelude.lua"), $(include_str!(concat!("scripts/", $part, ".lua"))),+)))
    };
}

static PUSH: LazyLock<Script> = script!("unique" "groups" "delayed" "push");
static PROMOTE: LazyLock<Script> = script!("unique" "groups" "delayed" "failing" "promote");
static FINISH: LazyLock<Script> =
    script!("unique" "groups" "entry" "held" "failing" "finished" "finish");
static DELAY: LazyLock<Script> =
    script!("unique" "groups" "entry" "held" "failing" "forget" "delayed" "delay");
static BURY: LazyLock<Script> = script!("unique" "groups" "entry" "held" "failing" "bury");
static REPLAY: LazyLock<Script> = script!("unique" "groups" "replay");
static CANCEL: LazyLock<Script> =
    script!("unique" "groups" "entry" "held" "failing" "forget" "delayed" "cancel");
static HAND_BACK: LazyLock<Script> =
    script!("unique" "groups" "entry" "held" "failing" "forget" "hand_back");
static RENEW: LazyLock<Script> = script!("entry" "held" "renew");
static CLAIM: LazyLock<Script> = script!("claim");
static OPEN: LazyLock<Script> = script!("entry" "counts" "open");
static CHECK: LazyLock<Script> = script!("unique" "groups" "entry" "present" "check");
static SWEEP: LazyLock<Script> = script!("unique" "groups" "entry" "present" "counts" "sweep");
static DROP: LazyLock<Script> = script!("finished" "drop");
static RELEASE: LazyLock<Script> = script!("release");
static TAKE: LazyLock<Script> = script!("take");
static FORGET_CONSUMERS: LazyLock<Script> = script!("forget_consumers");
static STATS: LazyLock<Script> = script!("failing" "stats");
static EPOCH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/epoch.lua")));
static LOOK: LazyLock<Script> = script!("entry" "delayed" "look");
static HASTEN: LazyLock<Script> = script!("hasten");

/// The queues of one installation in Redis. Cheap to clone; clones share a connection, which
/// reconnects automatically.
#[derive(Clone)]
pub struct Broker {
    connections: Connections,
    prefix: String,
    jobs: config::Jobs,
    loss_suspected: Arc<Notify>,
}

/// The consumer group of all workers.
pub(crate) const GROUP: &str = "workers";

/// Id of the stream entry of a job that is ready or running, such as `1700000000000-0`.
pub(crate) type EntryId = String;

impl Broker {
    /// Connects when the first command runs. Fails if the URL of Redis is invalid.
    pub(crate) fn new(redis: &config::Redis, jobs: &config::Jobs) -> RedisResult<Self> {
        // A counter that first appears with its first event shows no increase. Every process
        // enqueues jobs, so every process registers it.
        for queue in jobs.queues.all() {
            metrics::JOBS_DUPLICATES.with_label_values(&[queue.name()]).inc_by(0);
        }
        Ok(Self {
            connections: Connections::new(redis)?,
            prefix: redis.key_prefix.clone(),
            jobs: jobs.clone(),
            loss_suspected: Arc::default(),
        })
    }

    /// The connections to Redis.
    pub(crate) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The configuration of the engine.
    pub(crate) fn config(&self) -> &config::Jobs {
        &self.jobs
    }

    /// The concurrency, priority and rates of `queue`.
    pub(crate) fn settings(&self, queue: Queue) -> &QueueSettings {
        self.jobs.queues.settings(queue)
    }

    /// Prefix of every key.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Name of one of the keys of `queue`. All of them share a hash tag, so a queue occupies one
    /// slot of a cluster, and a script, which derives the names from that of the stream, may access
    /// all of them.
    pub(crate) fn key(&self, queue: Queue, name: &str) -> String {
        format!("{{{}:{queue}}}:{name}", self.prefix)
    }

    pub(crate) fn connection(&self) -> Shared {
        self.connections.shared()
    }

    /// A call of `script` on `queue`. The script derives all keys from that of the stream.
    fn call<'a>(&self, script: &'a Script, queue: Queue) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        call.key(self.key(queue, "stream"));
        call
    }

    /// A call of a script that adds jobs to the stream.
    fn call_admitting<'a>(&self, script: &'a Script, queue: Queue) -> ScriptInvocation<'a> {
        let mut call = self.call(script, queue);
        let (at_once, interval_ms, burst) = limit_args(self.settings(queue));
        call.arg(at_once).arg(interval_ms).arg(burst);
        call
    }

    /// Notifies the relay that Redis may have lost jobs of `queue`: the relay of this process
    /// immediately, the leader when it next compares epochs.
    pub(crate) async fn suspect_loss(&self, queue: Queue) -> RedisResult<()> {
        let _: usize = redis::cmd("DEL")
            .arg(self.key(queue, "epoch"))
            .query_async(&mut self.connection())
            .await?;
        self.loss_suspected.notify_one();
        Ok(())
    }

    /// Resolves when a task of this process suspects that Redis has lost jobs.
    pub(crate) async fn loss_suspected(&self) {
        self.loss_suspected.notified().await;
    }

    /// Whether Redis responds for every queue. Queues may be on different servers.
    pub async fn ping(&self) -> RedisResult<()> {
        for queue in self.jobs.queues.all() {
            // By key, because without one the client of a cluster skips nodes that it has lost.
            let _: bool = redis::cmd("EXISTS")
                .arg(self.key(queue, "epoch"))
                .query_async(&mut self.connection())
                .await?;
        }
        Ok(())
    }

    /// Creates the consumer group if it is missing. Returns whether jobs may have been lost with
    /// it.
    pub(crate) async fn open(&self, queue: Queue) -> RedisResult<bool> {
        match self.call(&OPEN, queue).invoke_async(&mut self.connection()).await {
            // Another worker created it at the same moment.
            Err(error) if error.code() == Some("BUSYGROUP") => Ok(false),
            opened => opened,
        }
    }

    /// Identifies the current lifetime of the data of `queue`: changes when its server restarts,
    /// fails over or is flushed. `fresh` is stored as its mark if there is none.
    pub(crate) async fn epoch(&self, queue: Queue, fresh: &str) -> RedisResult<String> {
        EPOCH.key(self.key(queue, "epoch")).arg(fresh).invoke_async(&mut self.connection()).await
    }
}

/// An id as stored in Redis: the bare 16 bytes, less than half the size of its text.
pub(crate) fn id_bytes(id: JobId) -> [u8; 16] {
    *id.uuid().as_bytes()
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
