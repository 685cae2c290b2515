//! A master monitored by Sentinel, which is looked up when needed and dropped when it fails.
//!
//! After a failover the old master is gone, hangs, or answers as a replica. The command that
//! encounters this fails; the next one asks the sentinels again.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::config;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, Pipeline, RedisError,
    RedisFuture, RedisResult, TlsMode, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use secrecy::{ExposeSecret, SecretString};

use super::{certificates, client};

/// Timeout for finding the master: enough for a few sentinels that do not answer, one after
/// another.
const FIND_MAX: Duration = Duration::from_secs(5);
/// Error codes of a server that is no longer the master, or that others may no longer consider one.
const NOT_MASTER: [&str; 3] = ["READONLY", "MASTERDOWN", "NOREPLICAS"];

/// The master according to the sentinels. Cheap to clone; clones share a connection.
#[derive(Clone)]
pub(crate) struct Sentinel {
    inner: Arc<Inner>,
}

struct Inner {
    sentinels: tokio::sync::Mutex<SentinelClient>,
    /// None while the master is unknown.
    master: Mutex<Option<Master>>,
    database: i64,
    timeout: Duration,
}

/// A connection to the master known when it was created.
#[derive(Clone)]
struct Master {
    address: ConnectionAddr,
    connection: MultiplexedConnection,
    /// Distinguishes this connection from others to the same server.
    made: Arc<()>,
}

impl Sentinel {
    /// Connects with the first command. Credentials and database in `sentinels` are those of the
    /// master. Fails if the addresses or the certificates are invalid.
    pub(super) fn new(
        sentinels: &[SecretString],
        master: &str,
        redis: &config::Redis,
    ) -> RedisResult<Self> {
        let certificates = certificates(redis);
        let sentinels: Vec<Client> = sentinels
            .iter()
            .map(|place| client(place, certificates.as_ref()))
            .collect::<RedisResult<_>>()?;
        let first = sentinels
            .first()
            .ok_or((ErrorKind::EmptySentinelList, "no sentinels are configured"))?
            .get_connection_info()
            .clone();
        let addresses =
            sentinels.iter().map(|sentinel| sentinel.get_connection_info().addr().clone());
        let mut builder =
            SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?;
        let (server, database) = (first.redis_settings(), first.redis_settings().db());
        builder = builder
            .set_client_to_redis_db(database)
            .set_client_to_redis_protocol(server.protocol());
        if let Some(username) = server.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = server.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if !redis.sentinel_password.expose_secret().is_empty() {
            builder =
                builder.set_client_to_sentinel_password(redis.sentinel_password.expose_secret());
        }
        if redis.url.is_secured() {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = certificates {
            builder = builder.set_client_to_redis_certificates(certificates);
        }
        let sentinels = tokio::sync::Mutex::new(builder.build()?);
        Ok(Self {
            inner: Arc::new(Inner {
                sentinels,
                master: Mutex::default(),
                database,
                timeout: redis.timeout,
            }),
        })
    }

    /// The master that the sentinels name now and that confirms its role. Commands drop any other
    /// one.
    pub(super) async fn master(&self) -> RedisResult<Client> {
        let client =
            in_time(async { self.inner.sentinels.lock().await.async_get_client().await }).await?;
        let mut master = self.known();
        if master
            .as_ref()
            .is_some_and(|master| master.address != *client.get_connection_info().addr())
        {
            *master = None;
        }
        Ok(client)
    }

    /// The connection for commands.
    async fn connected(&self) -> RedisResult<Master> {
        if let Some(master) = self.known().clone() {
            return Ok(master);
        }
        in_time(async {
            // Another task may have found the master while this one waited for the lock.
            let mut sentinels = self.inner.sentinels.lock().await;
            if let Some(master) = self.known().clone() {
                return Ok(master);
            }
            let client = sentinels.async_get_client().await?;
            let timeout = Some(self.inner.timeout);
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(timeout)
                .set_response_timeout(timeout);
            let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let master = Master {
                address: client.get_connection_info().addr().clone(),
                connection,
                made: Arc::default(),
            };
            tracing::info!(address = %master.address, "redis_master_found");
            *self.known() = Some(master.clone());
            Ok(master)
        })
        .await
    }

    /// Drops the connection to `master` if commands still use it.
    fn leave(&self, master: &Master) {
        let mut known = self.known();
        if known.as_ref().is_some_and(|known| Arc::ptr_eq(&known.made, &master.made)) {
            *known = None;
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<Master>> {
        self.inner.master.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn in_time<T>(finding: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let late = |_| RedisError::from((ErrorKind::Io, "the sentinels named no master in time"));
    tokio::time::timeout(FIND_MAX, finding).await.map_err(late)?
}

/// Whether the error means that the connection must be replaced.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || error.code().is_some_and(|code| NOT_MASTER.contains(&code))
}

fn is_refusal(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if NOT_MASTER.contains(&error.code()))
}

impl ConnectionLike for Sentinel {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut master = self.connected().await?;
            let answer = master.connection.req_packed_command(command).await;
            if answer.as_ref().map_or_else(is_lost, is_refusal) {
                self.leave(&master);
            }
            answer
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut master = self.connected().await?;
            let answers = master.connection.req_packed_commands(pipeline, offset, count).await;
            if answers.as_ref().map_or_else(is_lost, |answers| answers.iter().any(is_refusal)) {
                self.leave(&master);
            }
            answers
        })
    }

    fn get_db(&self) -> i64 {
        self.inner.database
    }
}
