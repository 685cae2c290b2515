//! A Redis server that keeps its data in an append-only file, as in production.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Child,
    child::log_in,
    free_port,
    install::{Program, Tool},
};

const READY_WITHIN: Duration = Duration::from_mins(1);

/// A running `redis-server`. Dropping it kills it; its data stays.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// Starts it on a data folder, which may hold data of an earlier run, and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be installed or does not become ready.
    pub async fn start(dir: &Path, port: Option<u16>) -> anyhow::Result<Self> {
        Self::start_with_log(dir, port, log_in(dir, "redis")).await
    }

    /// As [`Redis::start`], writing its log to a file of your choice.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub async fn start_with_log(dir: &Path, port: Option<u16>, log: PathBuf) -> anyhow::Result<Self> {
        let program = Tool::Redis.find().await?;
        let port = port.map_or_else(free_port, Ok)?;
        let redis = Self { child: spawn(&program, dir, port, log)?, port };
        redis.ready().await?;
        Ok(redis)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address for clients.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts it again on the same data and port after it ended, and waits until it answers.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.child.respawn().await?;
        self.ready().await
    }

    /// Waits until it answers, its data loaded.
    ///
    /// # Errors
    /// When it ends first or takes longer than a minute; the message holds the end of its log.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let answers = async {
            super::process::listening(self.port).await;
            while !ping(self.port).await.unwrap_or(false) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        self.child.ready_when(answers, READY_WITHIN).await
    }
}

/// True when it answers PONG; while it loads its data it answers LOADING.
async fn ping(port: u16) -> anyhow::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await?;
    Ok(&answer == b"+PONG\r\n")
}

fn spawn(program: &Program, dir: &Path, port: u16, log: PathBuf) -> anyhow::Result<Child> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let spec = program.spec("redis", log).args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"]).args([dir]);
    let spec = spec.args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]);
    Child::spawn(spec)
}

impl std::ops::Deref for Redis {
    type Target = Child;

    /// A server is a child process with an address.
    fn deref(&self) -> &Child {
        &self.child
    }
}
