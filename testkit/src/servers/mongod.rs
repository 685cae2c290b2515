//! A MongoDB server: a replica set of one node, so that transactions work.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use mongodb::{
    Client, Database,
    bson::{Document, doc},
};

use programs::{
    Child, free_port,
    install::Tool,
    listening, log_in,
    server::{REPLICA_SET, mongod, mongodb_uri},
};

const READY_WITHIN: Duration = Duration::from_mins(1);
/// A starting node changes its state several times within milliseconds; commands at such a moment
/// are rejected or interrupted. Commands that still fail after this time have really failed.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
/// Error codes of the server.
const NOT_YET_INITIALIZED: i32 = 94;
const INVALID_REPLICA_SET_CONFIG: i32 = 93;

/// A running `mongod`. Dropping it kills it; its data stays.
#[derive(Debug)]
pub struct Mongod {
    child: Child,
    port: u16,
}

impl Mongod {
    /// Starts it on a data folder, which may contain data of an earlier run, and waits until it
    /// accepts writes. Fails if it cannot be installed or does not become ready.
    pub async fn start(dir: &Path, port: Option<u16>) -> anyhow::Result<Self> {
        Self::start_with_log(dir, port, log_in(dir, "mongod")).await
    }

    /// As [`Mongod::start`], with its log in the given file.
    pub async fn start_with_log(
        dir: &Path,
        port: Option<u16>,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let program = Tool::Mongod.find().await?;
        let port = port.map_or_else(free_port, Ok)?;
        let mongod = Self { child: mongod(&program, dir, port, &log)?, port };
        mongod.ready().await?;
        Ok(mongod)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The connection string for clients.
    pub fn uri(&self) -> String {
        mongodb_uri(self.port)
    }

    /// Starts it again on the same data and port after it has ended, and waits until it accepts
    /// writes.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.child.respawn().await?;
        self.ready().await
    }

    /// Waits until it accepts writes. Fails if it ends, or does not become ready within a minute;
    /// the message includes the end of its log.
    pub async fn ready(&self) -> anyhow::Result<()> {
        self.child.ready_when(primary(self.port), READY_WITHIN).await
    }
}

/// Waits until the MongoDB on this port accepts writes, and makes it a replica set if it is none.
pub async fn primary(port: u16) -> anyhow::Result<()> {
    listening(port).await;
    // The futures of the driver are large; boxed, they do not enlarge those of every caller.
    Box::pin(become_primary(port)).await
}

async fn become_primary(port: u16) -> anyhow::Result<()> {
    let uri = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
    let client = Client::with_uri_str(uri).await?;
    let admin = client.database("admin");
    let begun = Instant::now();
    let mut asked = false;
    loop {
        match advance(&admin, port, &mut asked).await {
            Ok(true) => break,
            Err(error) if begun.elapsed() > SETTLED_WITHIN => return Err(error),
            Ok(false) | Err(_) => {}
        }
        tokio::time::sleep(if begun.elapsed() < Duration::from_secs(1) {
            Duration::from_millis(10)
        } else {
            Duration::from_millis(100)
        })
        .await;
    }
    client.shutdown().immediate(true).await;
    Ok(())
}

/// Checks whether the node accepts writes, and initiates its replica set if it has none.
async fn advance(admin: &Database, port: u16, asked: &mut bool) -> anyhow::Result<bool> {
    if admin.run_command(doc! { "hello": 1 }).await?.get_bool("isWritablePrimary").unwrap_or(false)
    {
        return Ok(true);
    }
    // A node of a replica set elects itself within milliseconds; one that takes longer has none
    // yet.
    if !*asked {
        *asked = initiate(admin, port).await?;
    }
    Ok(false)
}

/// Makes the node a replica set of its own; returns whether this was necessary. If its data was
/// created on another port, the configuration is corrected.
async fn initiate(admin: &Database, port: u16) -> anyhow::Result<bool> {
    let members = vec![doc! { "_id": 0, "host": format!("127.0.0.1:{port}") }];
    let Err(error) = admin.run_command(doc! { "replSetGetStatus": 1 }).await else {
        return Ok(false);
    };
    match code(&error) {
        Some(NOT_YET_INITIALIZED) => {
            let config = doc! { "_id": REPLICA_SET, "members": members };
            admin
                .run_command(doc! { "replSetInitiate": config })
                .await
                .context("making it a replica set")?;
            Ok(true)
        }
        Some(INVALID_REPLICA_SET_CONFIG) => {
            let stored = admin
                .client()
                .database("local")
                .collection::<Document>("system.replset")
                .find_one(doc! {})
                .await?;
            let mut config = stored.context("the node has a replica set configuration")?;
            let version = config.get_i32("version").unwrap_or(1).saturating_add(1);
            config.insert("members", members);
            config.insert("version", version);
            let moved = admin.run_command(doc! { "replSetReconfig": config, "force": true }).await;
            moved.context("moving the replica set to this port")?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn code(error: &mongodb::error::Error) -> Option<i32> {
    match &*error.kind {
        mongodb::error::ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

impl std::ops::Deref for Mongod {
    type Target = Child;

    /// A server is a child process with an address.
    fn deref(&self) -> &Child {
        &self.child
    }
}
