//! The MongoDB and Redis that the tests of a run share.

use std::sync::{Arc, Weak};

use anyhow::Context;
use tokio::sync::Mutex;

use programs::variable;

use crate::servers::{Mongod, Redis};

/// The addresses of the servers, and the servers themselves if this process started them.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) mongodb_uri: String,
    pub(super) redis_url: String,
    pub(super) own: Option<Own>,
}

/// Servers that stop when this value is dropped. Fields are dropped in order: the programs before
/// their data.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) mongod: Mongod,
    pub(super) redis: Redis,
    _folder: tempfile::TempDir,
}

impl Servers {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("tenantry-test-").tempdir()?;
        let (mongodb, redis) = (folder.path().join("mongod"), folder.path().join("redis"));
        let (mongod, redis) =
            tokio::try_join!(Mongod::start(&mongodb, None), Redis::start(&redis, None))?;
        Ok(Self {
            mongodb_uri: mongod.uri(),
            redis_url: redis.url(),
            own: Some(Own { mongod, redis, _folder: folder }),
        })
    }
}

/// The servers named by the environment, or new ones that stop with their last user.
pub(super) async fn servers() -> anyhow::Result<Arc<Servers>> {
    static STARTED: Mutex<Weak<Servers>> = Mutex::const_new(Weak::new());
    if let Some(mongodb_uri) = variable("TENANTRY_TEST_MONGODB_URI") {
        let redis_url = variable("TENANTRY_TEST_REDIS_URL")
            .context("TENANTRY_TEST_MONGODB_URI is set, so TENANTRY_TEST_REDIS_URL must be")?;
        return Ok(Arc::new(Servers { mongodb_uri, redis_url, own: None }));
    }
    let mut started = STARTED.lock().await;
    if let Some(servers) = started.upgrade() {
        return Ok(servers);
    }
    let servers = Arc::new(Servers::start().await?);
    *started = Arc::downgrade(&servers);
    Ok(servers)
}
