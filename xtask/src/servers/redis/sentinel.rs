//! A Redis master with two replicas, and three sentinels that put one of them in its place when it fails.

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};

use super::{Redis, Tool, free_port, log_in, server_args};

/// What the servers ask for, and the sentinels.
const SERVER_PASSWORD: &str = "server-password";
const SENTINEL_PASSWORD: &str = "sentinel-password";
/// What the sentinels call the master.
const MASTER: &str = "mymaster";
const REPLICAS: usize = 2;
const SENTINELS: usize = 3;
/// Sentinels that must agree that the master is down.
const QUORUM: usize = 2;
/// A server that is silent this long is down.
const DOWN_AFTER_MS: u32 = 1_000;
/// How long a failover may take before another is tried.
const FAILOVER_MS: u32 = 5_000;
const READY_WITHIN: Duration = Duration::from_mins(1);

/// Running servers and sentinels. Dropping it kills them all.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl RedisSentinel {
    /// Starts them on an empty folder and waits until every sentinel could fail the master over.
    ///
    /// # Errors
    /// When they cannot be installed or do not become ready.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut servers = vec![start_server(dir.join("server-0"), None).await?];
        let port = servers[0].port().to_string();
        let replicas = (1..=REPLICAS).map(|number| start_server(dir.join(format!("server-{number}")), Some(&port)));
        servers.extend(futures::future::try_join_all(replicas).await?);
        let sentinels = (0..SENTINELS).map(|number| start_sentinel(dir.join(format!("sentinel-{number}")), servers[0].port()));
        let sentinels = futures::future::try_join_all(sentinels).await?;
        let started = Self { servers, sentinels };
        tokio::time::timeout(READY_WITHIN, started.able()).await.context("the sentinels were not ready in time")??;
        Ok(started)
    }

    /// Waits until the replicas follow and every sentinel knows them and the other sentinels.
    async fn able(&self) -> anyhow::Result<()> {
        for replica in &self.servers[1..] {
            loop {
                let info: String = redis::cmd("INFO").arg("replication").query_async(&mut replica.connection().await?).await?;
                if info.lines().any(|line| line == "master_link_status:up") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        for sentinel in &self.sentinels {
            loop {
                let mut question = redis::cmd("SENTINEL");
                let known: HashMap<String, String> =
                    question.arg("MASTER").arg(MASTER).query_async(&mut sentinel.connection().await?).await?;
                let says = |field: &str, value: usize| known.get(field) == Some(&value.to_string());
                if says("num-slaves", REPLICAS) && says("num-other-sentinels", SENTINELS - 1) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// The address for clients, as `redis.url` takes it.
    pub fn url(&self) -> String {
        let places: Vec<String> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
        format!("redis+sentinel://:{SERVER_PASSWORD}@{}/{MASTER}", places.join(","))
    }

    /// What the sentinels ask for, as `redis.sentinel_password` takes it.
    pub fn sentinel_password(&self) -> &'static str {
        SENTINEL_PASSWORD
    }

    /// The sentinels.
    pub fn sentinels(&self) -> &[Redis] {
        &self.sentinels
    }

    /// The server that the first sentinel that runs calls the master now.
    ///
    /// # Errors
    /// When none answers.
    pub async fn master(&self) -> anyhow::Result<&Redis> {
        let sentinel = self.sentinels.iter().find(|sentinel| sentinel.status().is_none()).context("a sentinel runs")?;
        let mut question = redis::cmd("SENTINEL");
        let address: (String, u16) =
            question.arg("GET-MASTER-ADDR-BY-NAME").arg(MASTER).query_async(&mut sentinel.connection().await?).await?;
        ensure!(address.0 == "127.0.0.1", "the master is elsewhere");
        self.servers.iter().find(|server| server.port() == address.1).context("the master is one of the servers")
    }
}

async fn start_server(dir: PathBuf, master_port: Option<&str>) -> anyhow::Result<Redis> {
    let port = free_port()?;
    let mut args = server_args(&dir, port);
    args.extend(["--requirepass", SERVER_PASSWORD, "--masterauth", SERVER_PASSWORD, "--repl-diskless-sync-delay", "0"].map(OsString::from));
    if let Some(master_port) = master_port {
        args.extend(["--replicaof", "127.0.0.1", master_port].map(OsString::from));
    }
    Redis::run(&Tool::Redis.find().await?, &dir, port, Some(SERVER_PASSWORD), log_in(&dir, "redis"), args).await
}

async fn start_sentinel(dir: PathBuf, master_port: u16) -> anyhow::Result<Redis> {
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let port = free_port()?;
    // A file, because a sentinel writes there what it learns.
    let config = dir.join("sentinel.conf");
    let lines = [
        format!("port {port}"),
        "bind 127.0.0.1".to_owned(),
        format!("dir {}", dir.display()),
        format!("requirepass {SENTINEL_PASSWORD}"),
        format!("sentinel monitor {MASTER} 127.0.0.1 {master_port} {QUORUM}"),
        format!("sentinel auth-pass {MASTER} {SERVER_PASSWORD}"),
        format!("sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}"),
        format!("sentinel failover-timeout {MASTER} {FAILOVER_MS}"),
    ];
    std::fs::write(&config, lines.join("\n")).with_context(|| format!("writing {}", config.display()))?;
    let args = vec![config.into(), "--sentinel".into()];
    Redis::run(&Tool::Redis.find().await?, &dir, port, Some(SENTINEL_PASSWORD), log_in(&dir, "sentinel"), args).await
}
