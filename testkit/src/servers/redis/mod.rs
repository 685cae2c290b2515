//! A Redis server with an append-only file, as in production: standalone, in a cluster, or
//! monitored by sentinels.

mod cluster;
mod sentinel;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use programs::{
    Child, free_port,
    install::{Program, Tool},
    listening, log_in,
    server::{self, redis_args},
};

use super::Authority;

pub use cluster::RedisCluster;
pub use sentinel::RedisSentinel;

const READY_WITHIN: Duration = Duration::from_mins(1);

/// A running `redis-server` or `valkey-server`. Dropping it kills it; its data stays.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
    /// Password that it requires.
    password: Option<&'static str>,
}

impl Redis {
    /// Starts it on a data folder, which may contain data of an earlier run, and waits until it
    /// responds. Fails if it cannot be installed or does not become ready.
    pub async fn start(dir: &Path, port: Option<u16>) -> anyhow::Result<Self> {
        Self::start_with_log(dir, port, log_in(dir, "redis")).await
    }

    /// As [`Redis::start`], with its log in the given file.
    pub async fn start_with_log(
        dir: &Path,
        port: Option<u16>,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let program = Tool::Redis.find().await?;
        let port = port.map_or_else(free_port, Ok)?;
        Self::run(&program, dir, port, None, log, redis_args(dir, port)).await
    }

    /// As [`Redis::start`], with a Valkey server on a free port.
    pub async fn start_valkey(dir: &Path) -> anyhow::Result<Self> {
        let (program, port) = (Tool::Valkey.find().await?, free_port()?);
        Self::run(&program, dir, port, None, log_in(dir, "valkey"), redis_args(dir, port)).await
    }

    /// As [`Redis::start`] on a free port, with further arguments, which override the usual ones.
    pub async fn start_with(
        dir: &Path,
        args: impl IntoIterator<Item = String>,
    ) -> anyhow::Result<Self> {
        let port = free_port()?;
        let args =
            redis_args(dir, port).into_iter().chain(args.into_iter().map(OsString::from)).collect();
        Self::run(&Tool::Redis.find().await?, dir, port, None, log_in(dir, "redis"), args).await
    }

    async fn run(
        program: &Program,
        dir: &Path,
        port: u16,
        password: Option<&'static str>,
        log: PathBuf,
        args: Vec<OsString>,
    ) -> anyhow::Result<Self> {
        let redis = Self { child: server::redis(program, dir, &log, args)?, port, password };
        redis.ready().await?;
        Ok(redis)
    }

    /// A connection to it.
    pub async fn connection(&self) -> anyhow::Result<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(self.url())?;
        // The futures of the client are large; boxed, they do not enlarge those of every caller.
        Ok(Box::pin(client.get_multiplexed_async_connection()).await?)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        let password = self.password.map_or_else(String::new, |password| format!(":{password}@"));
        format!("redis://{password}127.0.0.1:{}", self.port)
    }

    /// Starts it again on the same data and port after it has ended, and waits until it responds.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.child.respawn().await?;
        self.ready().await
    }

    /// Waits until it has loaded its data and responds. Fails if it ends, or does not become ready
    /// within a minute; the message includes the end of its log.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let answers = async {
            answering(&self.url(), self.port).await;
            Ok(())
        };
        self.child.ready_when(answers, READY_WITHIN).await
    }
}

/// Waits until the Redis on this port has loaded its data and responds.
pub async fn answering(url: &str, port: u16) {
    let ping = async || {
        let client = redis::Client::open(url)?;
        let mut connection = Box::pin(client.get_multiplexed_async_connection()).await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await
    };
    listening(port).await;
    while ping().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The arguments with which a server also uses TLS on `port`, with a certificate of `authority`.
pub fn tls_args(authority: &Authority, dir: &Path, port: u16) -> anyhow::Result<Vec<String>> {
    let files = authority.issue(dir)?;
    let shown = |path: &Path| path.display().to_string();
    let args = [
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", shown(&files.certificate)),
        ("--tls-key-file", shown(&files.key)),
        ("--tls-ca-cert-file", shown(&files.authority)),
        ("--tls-auth-clients", "no".to_owned()),
    ];
    Ok(args.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect())
}

impl std::ops::Deref for Redis {
    type Target = Child;

    /// A server is a child process with an address.
    fn deref(&self) -> &Child {
        &self.child
    }
}
