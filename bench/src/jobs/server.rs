//! The servers of a run. Redis is emptied before every task and rewrites its append-only file, so
//! that no contestant pays for what another one left behind.

use std::time::Duration;

use anyhow::Context;
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use testkit::contest::{Task, Values};

use super::{
    contestant::Running,
    measure::{Measure, PER_JOB, payload_bytes},
};
use crate::stack::{Ports, Servers};

/// Timeout of Redis: deleting a million jobs takes a while on a busy machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Maximum time for Redis to rewrite its file.
const REWRITE_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two checks whether it has.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// MongoDB, which only our engine needs, and the Redis of all contestants.
pub(super) struct Server {
    servers: Servers,
    redis: MultiplexedConnection,
}

impl Server {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let servers = Servers::start().await?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER_WITHIN));
        let redis = redis::Client::open(servers.redis.url())?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok(Self { servers, redis })
    }

    /// Environment variables of the contestants.
    pub(super) fn env(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut env = self.servers.env("bench_engine", Ports::free()?);
        env.push(("BENCH_REDIS_PORT".to_owned(), self.servers.redis.port().to_string()));
        Ok(env)
    }

    /// The log of a contestant, which contains only errors.
    pub(super) fn log(&self, name: &str) -> std::path::PathBuf {
        self.servers.folder.path().join(format!("{name}.log"))
    }

    /// Empties Redis.
    pub(super) async fn wipe(&self) -> anyhow::Result<()> {
        let redis = &mut self.redis.clone();
        redis::cmd("FLUSHDB").exec_async(redis).await.context("emptying Redis")?;
        redis::cmd("BGREWRITEAOF")
            .exec_async(redis)
            .await
            .context("making Redis rewrite its file")?;
        let written = async {
            while self
                .info("persistence")
                .await?
                .lines()
                .any(|line| line.starts_with("aof_rewrite_") && line.ends_with(":1"))
            {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(REWRITE_WITHIN, written)
            .await
            .context("Redis did not rewrite its file in time")?
    }

    /// Has a contestant perform a task on an empty server.
    pub(super) async fn measure(
        &self,
        measure: Measure,
        contestant: &mut Running,
        task: Task,
    ) -> anyhow::Result<Values> {
        self.wipe().await?;
        let (Measure::Memory, Task::PushBatch { jobs }) = (measure, task) else {
            return contestant.measure(task).await;
        };
        let before = self.memory().await?;
        contestant.measure(task).await?;
        let bytes = self.memory().await? - before - payload_bytes(jobs);
        Ok([(PER_JOB.to_owned(), bytes / f64::from(jobs))].into())
    }

    /// Memory that Redis uses in bytes, without buffers of clients and of its file.
    async fn memory(&self) -> anyhow::Result<f64> {
        let info = self.info("memory").await?;
        let of = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let value = line.and_then(|value| value.trim().parse::<f64>().ok());
            value.with_context(|| format!("Redis reports no {name}"))
        };
        Ok(of("used_memory")? - of("mem_clients_normal")? - of("mem_aof_buffer")?)
    }

    async fn info(&self, section: &str) -> anyhow::Result<String> {
        let info: String =
            redis::cmd("INFO").arg(section).query_async(&mut self.redis.clone()).await?;
        Ok(info.replace('\r', ""))
    }
}
