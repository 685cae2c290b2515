//! The environment of a test: its own database, key prefix and mailbox, and the programs of the
//! product.
//!
//! Tests share MongoDB and Redis and are kept apart by name. `cargo xtask test` starts the servers
//! once and passes their addresses in two environment variables. Without these, the first test of a
//! process starts them, and the last one that ends stops them and removes their data.

mod prepared;
mod service;
mod shared;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use prepared::{Claim, State};
pub use service::{Instance, Service, is_ready, ready};
use shared::Servers;

use programs::{Wiring, free_port};

use crate::servers::{MailCatcher, Mongod, Redis};

/// The environment of one test. The programs that it started and its mailbox end with it.
#[derive(Debug)]
pub struct TestEnv {
    servers: Arc<Servers>,
    /// A Redis of its own instead of the shared one.
    own_redis: Option<OwnRedis>,
    database: String,
    key_prefix: String,
    mail: MailCatcher,
    ports: Ports,
    /// Folder for the logs of the programs.
    folder: tempfile::TempDir,
    /// How many programs of each kind were started.
    apis: AtomicU32,
    workers: AtomicU32,
}

/// Fields are dropped in order: the programs before their data.
#[derive(Debug)]
struct OwnRedis {
    url: String,
    redis: Redis,
    _folder: tempfile::TempDir,
}

/// Ports of the first API and worker of a test.
#[derive(Debug, Clone, Copy)]
struct Ports {
    api: u16,
    api_internal: u16,
    worker_internal: u16,
}

impl Ports {
    fn fresh() -> anyhow::Result<Self> {
        Ok(Self { api: free_port()?, api_internal: free_port()?, worker_internal: free_port()? })
    }
}

impl TestEnv {
    /// A database, key prefix and mailbox of its own on the shared servers.
    ///
    /// # Panics
    /// If the servers cannot be started.
    pub async fn new() -> Self {
        Self::on(shared::servers().await.expect("the shared servers start"), unique_name()).await
    }

    /// As [`TestEnv::new`], with a database that has a schema and is otherwise empty. `prepare`
    /// creates the schema, unless a database of an earlier test with this schema can be reused.
    ///
    /// # Panics
    /// If the servers cannot be started or do not respond.
    pub async fn prepared(schema: &str, prepare: impl AsyncFnOnce(&Self)) -> Self {
        let servers = shared::servers().await.expect("the shared servers start");
        loop {
            let claim =
                Claim::of(schema, &servers.mongodb_uri).await.expect("a database can be had");
            let state = claim.state().await.expect("the server answers");
            if state == State::Blocked {
                // While this one is held, the next claim is to another one.
                claim.hold();
                continue;
            }
            let env = Self::on(servers, claim.name().to_owned()).await;
            if state == State::Clean {
                claim.hold();
            } else {
                prepare(&env).await;
                claim.keep().await.expect("the server answers");
            }
            return env;
        }
    }

    /// As [`TestEnv::new`], with a MongoDB and a Redis that no other test uses, for tests that stop
    /// or flush them.
    ///
    /// # Panics
    /// If the servers cannot be started.
    pub async fn private() -> Self {
        let servers = Servers::start().await.expect("servers for one test start");
        Self::on(Arc::new(servers), unique_name()).await
    }

    /// Replaces Redis by one that no other test uses, for tests that stop or flush it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub async fn with_own_redis(self) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let redis = Redis::start(folder.path(), None).await.expect("a Redis for one test starts");
        let own_redis = OwnRedis { url: redis.url(), redis, _folder: folder };
        Self { own_redis: Some(own_redis), ..self }
    }

    async fn on(servers: Arc<Servers>, database: String) -> Self {
        Self {
            servers,
            own_redis: None,
            database,
            key_prefix: unique_name(),
            mail: MailCatcher::start(None).await.expect("a mail catcher starts"),
            ports: Ports::fresh().expect("ports are free"),
            folder: tempfile::tempdir().expect("a temporary folder can be made"),
            apis: AtomicU32::new(0),
            workers: AtomicU32::new(0),
        }
    }

    /// Connection string of the replica set.
    pub fn mongodb_uri(&self) -> &str {
        &self.servers.mongodb_uri
    }

    /// Name of the database of this test.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// URL of Redis.
    pub fn redis_url(&self) -> &str {
        self.own_redis.as_ref().map_or(&self.servers.redis_url, |own| &own.url)
    }

    /// Prefix of the keys of this test.
    pub fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    /// The mailbox of this test.
    pub fn mail(&self) -> &MailCatcher {
        &self.mail
    }

    /// The MongoDB of a private environment.
    ///
    /// # Panics
    /// If it is shared: stopping it would break other tests.
    pub fn mongod(&self) -> &Mongod {
        &self.servers.own.as_ref().expect("only TestEnv::private() may touch the server").mongod
    }

    /// The Redis of a private environment, or of one with its own Redis.
    ///
    /// # Panics
    /// If it is shared: stopping it would break other tests.
    pub fn redis(&self) -> &Redis {
        let own = self.own_redis.as_ref().map(|own| &own.redis);
        own.or_else(|| self.servers.own.as_ref().map(|own| &own.redis))
            .expect("only a Redis of its own may be touched by a test")
    }

    /// Environment variables that configure our programs for this environment.
    pub fn config_env(&self) -> Vec<(String, String)> {
        self.config_env_on(self.ports)
    }

    fn config_env_on(&self, ports: Ports) -> Vec<(String, String)> {
        let wiring = Wiring {
            public_url: format!("http://127.0.0.1:{}", self.ports.api),
            api_port: ports.api,
            api_internal_port: ports.api_internal,
            worker_internal_port: ports.worker_internal,
            mongodb_uri: self.mongodb_uri().to_owned(),
            database: self.database.clone(),
            redis_url: self.redis_url().to_owned(),
            key_prefix: self.key_prefix.clone(),
            smtp_port: self.mail.port(),
        };
        wiring.env()
    }

    /// Drops the database. Not required, but keeps a long-running server small.
    ///
    /// # Panics
    /// If the server does not respond.
    pub async fn cleanup(self) {
        let client = mongodb::Client::with_uri_str(self.mongodb_uri())
            .await
            .expect("the server's address is valid");
        client.database(&self.database).drop().await.expect("the database can be dropped");
    }
}

/// A name that is unique on this machine, so that test processes can share a server. It also
/// identifies the test in the server's log.
fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // Only the random end makes it unique; the rest is for people. MongoDB allows 63 bytes.
    let tail = uuid::Uuid::now_v7().simple().to_string();
    format!("test_{}_{count}_{}", std::process::id(), &tail[tail.len() - 12..])
}

/// The path of a program of the product, which cargo built beside this test.
///
/// # Panics
/// If the program has not been built.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    // `<target>/<profile>/deps/<test>`, and the programs one level up.
    let folder = test.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    let program = folder.map(|folder| folder.join(name)).unwrap_or_default();
    assert!(
        program.exists(),
        "{} is missing: run `cargo build --workspace --bins` first",
        program.display()
    );
    program
}
