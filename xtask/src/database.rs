//! MongoDB and Redis as started by this tool. Checking whether they are ready requires a driver, so
//! the program `testkit` does that.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    time::Duration,
};

use programs::{Child, command::succeed, install::Tool, server};
use tokio::process::Command;

const READY_WITHIN: Duration = Duration::from_mins(1);

/// A running server. Dropping it kills it; its data stays.
#[derive(Debug)]
pub(crate) struct Database {
    child: Child,
    port: u16,
    testkit: PathBuf,
    /// The command of `testkit` that returns when the server is ready.
    readiness: &'static str,
}

impl Database {
    /// Starts MongoDB and waits until it accepts writes.
    pub(crate) async fn mongod(
        testkit: &Path,
        dir: &Path,
        port: u16,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let child = server::mongod(&Tool::Mongod.find().await?, dir, port, log)?;
        Self::ready_on(child, port, testkit, "await-mongod").await
    }

    /// Starts Redis and waits until it responds.
    pub(crate) async fn redis(
        testkit: &Path,
        dir: &Path,
        port: u16,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let args = server::redis_args(dir, port);
        let child = server::redis(&Tool::Redis.find().await?, dir, log, args)?;
        Self::ready_on(child, port, testkit, "await-redis").await
    }

    async fn ready_on(
        child: Child,
        port: u16,
        testkit: &Path,
        readiness: &'static str,
    ) -> anyhow::Result<Self> {
        let database = Self { child, port, testkit: testkit.to_owned(), readiness };
        database.ready().await?;
        Ok(database)
    }

    /// Its port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let mut asking = Command::new(&self.testkit);
        asking.args([self.readiness, "--port", &self.port.to_string()]).kill_on_drop(true);
        self.child.ready_when(async { succeed(&mut asking).await }, READY_WITHIN).await
    }
}

impl Deref for Database {
    type Target = Child;

    /// A server is a child process with a port.
    fn deref(&self) -> &Child {
        &self.child
    }
}
