//! A Redis master with two replicas, and three sentinels that promote a replica when the master
//! fails.

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};

use programs::{free_port, install::Tool, log_in, server::redis_args};

use super::{Redis, tls_args};
use crate::servers::Authority;

/// Password of the servers and the sentinels.
const SERVER_PASSWORD: &str = "server-password";
const SENTINEL_PASSWORD: &str = "sentinel-password";
/// Name of the master at the sentinels.
const MASTER: &str = "mymaster";
const REPLICAS: usize = 2;
const SENTINELS: usize = 3;
/// Sentinels that must agree that the master is down.
const QUORUM: usize = 2;
/// A server that has not responded for this long is considered down.
const DOWN_AFTER_MS: u32 = 1_000;
/// Maximum time of a failover before another one is tried.
const FAILOVER_MS: u32 = 5_000;
const READY_WITHIN: Duration = Duration::from_mins(1);

/// Running servers and sentinels. Dropping this kills all of them.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: Vec<Member>,
    sentinels: Vec<Member>,
    secured: bool,
}

/// A server or sentinel with its port for clients: that of TLS if they use it.
#[derive(Debug)]
struct Member {
    redis: Redis,
    client_port: u16,
}

impl RedisSentinel {
    /// Starts them on an empty folder and waits until every sentinel could perform a failover.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::form(dir, None).await
    }

    /// As [`RedisSentinel::start`], with TLS and certificates of `authority`.
    pub async fn start_secured(dir: &Path, authority: &Authority) -> anyhow::Result<Self> {
        Self::form(dir, Some(authority)).await
    }

    async fn form(dir: &Path, authority: Option<&Authority>) -> anyhow::Result<Self> {
        let mut servers = vec![start_server(dir.join("server-0"), None, authority).await?];
        let port = servers[0].client_port;
        let replicas = (1..=REPLICAS).map(|number| {
            start_server(dir.join(format!("server-{number}")), Some(port), authority)
        });
        servers.extend(futures::future::try_join_all(replicas).await?);
        let sentinels = (0..SENTINELS)
            .map(|number| start_sentinel(dir.join(format!("sentinel-{number}")), port, authority));
        let sentinels = futures::future::try_join_all(sentinels).await?;
        let started = Self { servers, sentinels, secured: authority.is_some() };
        tokio::time::timeout(READY_WITHIN, started.able())
            .await
            .context("the sentinels were not ready in time")??;
        Ok(started)
    }

    /// Waits until the replicas follow the master, and every sentinel knows them and the other
    /// sentinels.
    async fn able(&self) -> anyhow::Result<()> {
        for replica in &self.servers[1..] {
            loop {
                let info: String = redis::cmd("INFO")
                    .arg("replication")
                    .query_async(&mut replica.redis.connection().await?)
                    .await?;
                if info.lines().any(|line| line == "master_link_status:up") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        for sentinel in &self.sentinels {
            loop {
                let mut question = redis::cmd("SENTINEL");
                let known: HashMap<String, String> = question
                    .arg("MASTER")
                    .arg(MASTER)
                    .query_async(&mut sentinel.redis.connection().await?)
                    .await?;
                let says = |field: &str, value: usize| known.get(field) == Some(&value.to_string());
                if says("num-slaves", REPLICAS) && says("num-other-sentinels", SENTINELS - 1) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// The URL for clients, as in `redis.url`.
    pub fn url(&self) -> String {
        let scheme = if self.secured { "rediss" } else { "redis" };
        let places: Vec<String> = self
            .sentinels
            .iter()
            .map(|sentinel| format!("127.0.0.1:{}", sentinel.client_port))
            .collect();
        format!("{scheme}+sentinel://:{SERVER_PASSWORD}@{}/{MASTER}", places.join(","))
    }

    /// Password of the sentinels, as in `redis.sentinel_password`.
    pub fn sentinel_password(&self) -> &'static str {
        SENTINEL_PASSWORD
    }

    /// The sentinel that clients query first.
    pub fn first_sentinel(&self) -> &Redis {
        &self.sentinels[0].redis
    }

    /// The current master according to the first running sentinel. Fails if none responds.
    pub async fn master(&self) -> anyhow::Result<&Redis> {
        let sentinel = self
            .sentinels
            .iter()
            .find(|sentinel| sentinel.redis.status().is_none())
            .context("a sentinel runs")?;
        let mut question = redis::cmd("SENTINEL");
        let address: (String, u16) = question
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(MASTER)
            .query_async(&mut sentinel.redis.connection().await?)
            .await?;
        ensure!(address.0 == "127.0.0.1", "the master is elsewhere");
        let master = self.servers.iter().find(|server| server.client_port == address.1);
        Ok(&master.context("the master is one of the servers")?.redis)
    }
}

async fn start_server(
    dir: PathBuf,
    master_port: Option<u16>,
    authority: Option<&Authority>,
) -> anyhow::Result<Member> {
    let port = free_port()?;
    let (client_port, tls) = secure(&dir, port, authority)?;
    let mut args = redis_args(&dir, port);
    args.extend(
        [
            "--requirepass",
            SERVER_PASSWORD,
            "--masterauth",
            SERVER_PASSWORD,
            "--repl-diskless-sync-delay",
            "0",
        ]
        .map(OsString::from),
    );
    if let Some(master_port) = master_port {
        args.extend(["--replicaof", "127.0.0.1", &master_port.to_string()].map(OsString::from));
    }
    args.extend(tls);
    let redis = Redis::run(
        &Tool::Redis.find().await?,
        &dir,
        port,
        Some(SERVER_PASSWORD),
        log_in(&dir, "redis"),
        args,
    )
    .await?;
    Ok(Member { redis, client_port })
}

async fn start_sentinel(
    dir: PathBuf,
    master_port: u16,
    authority: Option<&Authority>,
) -> anyhow::Result<Member> {
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let port = free_port()?;
    let (client_port, tls) = secure(&dir, port, authority)?;
    // A file, because a sentinel stores its state there.
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
    std::fs::write(&config, lines.join("\n"))
        .with_context(|| format!("writing {}", config.display()))?;
    let args = [config.into(), "--sentinel".into()].into_iter().chain(tls).collect();
    let redis = Redis::run(
        &Tool::Redis.find().await?,
        &dir,
        port,
        Some(SENTINEL_PASSWORD),
        log_in(&dir, "sentinel"),
        args,
    )
    .await?;
    Ok(Member { redis, client_port })
}

/// Port for clients of a member that listens on `port`, and the arguments with which it uses TLS.
fn secure(
    dir: &Path,
    port: u16,
    authority: Option<&Authority>,
) -> anyhow::Result<(u16, Vec<OsString>)> {
    let Some(authority) = authority else { return Ok((port, Vec::new())) };
    let client_port = free_port()?;
    let args = tls_args(authority, dir, client_port)?
        .into_iter()
        .chain(["--tls-replication", "yes"].map(str::to_owned));
    Ok((client_port, args.map(OsString::from).collect()))
}
