//! Connections to Redis: a shared one for commands, dedicated ones for blocking reads, and
//! subscriptions. A lost connection is restored or replaced; an outage of Redis ends nothing here.
//!
//! Redis is a single server, a cluster, or a master monitored by Sentinel. They differ in how the
//! server of a key is found and followed when it moves: see `cluster` and `sentinel`.

mod breaker;
mod cluster;
mod health;
mod sentinel;

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use redis::{
    Arg, AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, RedisFuture, RedisResult,
    TlsCertificates, Value,
    aio::{
        ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection, PubSub,
    },
    cluster_async::ClusterConnection,
};
use secrecy::{ExposeSecret, SecretString};

use tracing::{Instrument, Span};

use crate::{
    config::{self, RedisUrl},
    telemetry::trace::Call,
};
pub use breaker::{Away, Breaker};
use cluster::Cluster;
pub use health::Health;
use sentinel::Sentinel;

/// Attempts of one command to reconnect before it fails; its caller retries with backoff.
const RECONNECTS: usize = 1;
/// Shortest and longest wait before reconnecting.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(50);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(1);

/// Access to Redis. Cheap to clone; clones share a connection.
#[derive(Clone)]
pub struct Connections {
    servers: Servers,
    timeout: Duration,
    prefix: Arc<str>,
}

#[derive(Clone)]
enum Servers {
    Single { client: Arc<Client>, shared: ConnectionManager },
    Cluster(Cluster),
    Sentinel(Sentinel),
}

/// The connection for commands that answer at once. Cheap to clone.
#[derive(Clone)]
pub struct Shared(Server);

#[derive(Clone)]
enum Server {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
    Sentinel(Sentinel),
}

/// A dedicated connection for blocking reads, which would block every other command on a shared
/// one.
pub struct Reader {
    /// The connection to read from.
    pub connection: MultiplexedConnection,
    /// The server's id of the connection, with which its blocking read can be ended by another one.
    pub id: i64,
}

impl Connections {
    /// Connects with the first command. Fails if the address or the certificates are invalid.
    pub fn new(redis: &config::Redis) -> RedisResult<Self> {
        let servers = match &redis.url {
            RedisUrl::Single(address) => single(address, redis)?,
            RedisUrl::Cluster(nodes) => Servers::Cluster(Cluster::new(nodes, redis)?),
            RedisUrl::Sentinel { sentinels, master } => {
                Servers::Sentinel(Sentinel::new(sentinels, master, redis)?)
            }
        };
        Ok(Self { servers, timeout: redis.timeout, prefix: redis.key_prefix.as_str().into() })
    }

    /// How long a command may take.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Prefix of every key, so that installations can share a server.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The connection for commands that answer at once.
    pub fn shared(&self) -> Shared {
        Shared(match &self.servers {
            Servers::Single { shared, .. } => Server::Single(shared.clone()),
            Servers::Cluster(cluster) => Server::Cluster(cluster.shared()),
            Servers::Sentinel(sentinel) => Server::Sentinel(sentinel.clone()),
        })
    }

    /// A new connection for blocking reads of the stream at `key`.
    pub async fn reader(&self, key: &str) -> RedisResult<Reader> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(None);
        let mut connection = self
            .server_of(key)
            .await?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let id = redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await?;
        Ok(Reader { connection, id })
    }

    /// Ends the blocking read of `reader` on the stream at `key`; returns whether there was one.
    pub async fn unblock(&self, key: &str, reader: i64) -> RedisResult<bool> {
        let mut command = redis::cmd("CLIENT");
        command.arg("UNBLOCK").arg(reader);
        self.ask_server_of(key, command).await
    }

    /// Runs a command that names no key on the server that serves `key`.
    pub async fn ask_server_of<T: FromRedisValue>(
        &self,
        key: &str,
        command: Cmd,
    ) -> RedisResult<T> {
        match &self.servers {
            Servers::Cluster(cluster) => cluster.ask_server_of(key, command).await,
            Servers::Single { .. } | Servers::Sentinel(_) => {
                command.query_async(&mut self.shared()).await
            }
        }
    }

    /// A new connection for subscriptions to channels that scripts on `key`'s slot publish to.
    pub async fn subscriber(&self, key: &str) -> RedisResult<PubSub> {
        let server = self.server_of(key).await?;
        let connecting = tokio::time::timeout(self.timeout, server.get_async_pubsub()).await;
        connecting.map_err(|_| {
            redis::RedisError::from((redis::ErrorKind::Io, "connecting to Redis timed out"))
        })?
    }

    /// The server that currently serves `key`.
    async fn server_of(&self, key: &str) -> RedisResult<Client> {
        match &self.servers {
            Servers::Single { client, .. } => Ok(Client::clone(client)),
            Servers::Cluster(cluster) => cluster.server_of(key).await,
            Servers::Sentinel(sentinel) => sentinel.master().await,
        }
    }
}

fn single(address: &SecretString, redis: &config::Redis) -> RedisResult<Servers> {
    let client = client(address, certificates(redis).as_ref())?;
    let manager = ConnectionManagerConfig::new()
        .set_number_of_retries(RECONNECTS)
        .set_min_delay(RECONNECT_DELAY_MIN)
        .set_max_delay(RECONNECT_DELAY_MAX)
        .set_connection_timeout(Some(redis.timeout))
        .set_response_timeout(Some(redis.timeout));
    let shared = ConnectionManager::new_lazy_with_config(client.clone(), manager)?;
    Ok(Servers::Single { client: Arc::new(client), shared })
}

/// A client for the server at `address`; trusts only `certificates` if given.
fn client(address: &SecretString, certificates: Option<&TlsCertificates>) -> RedisResult<Client> {
    match certificates {
        Some(certificates) => Client::build_with_tls(address.expose_secret(), certificates.clone()),
        None => Client::open(address.expose_secret()),
    }
}

/// The certificate authority to trust instead of the public ones.
fn certificates(redis: &config::Redis) -> Option<TlsCertificates> {
    let root = (!redis.ca.is_empty()).then(|| redis.ca.clone().into_bytes())?;
    Some(TlsCertificates { client_tls: None, root_cert: Some(root) })
}

/// The name of a command, such as `EVALSHA`.
fn name(command: &Cmd) -> &str {
    match command.args_iter().next() {
        Some(Arg::Simple(name)) => str::from_utf8(name).unwrap_or_default(),
        _ => "",
    }
}

/// Runs a command within a span. Without one, it costs no allocation.
fn within<'a, T: Send + 'a>(span: Span, running: RedisFuture<'a, T>) -> RedisFuture<'a, T> {
    if span.is_disabled() { running } else { running.instrument(span).boxed() }
}

impl ConnectionLike for Shared {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let span = Call::Redis { command: name(command) }.span();
        let running = match &mut self.0 {
            Server::Single(connection) => connection.req_packed_command(command),
            Server::Cluster(connection) => connection.req_packed_command(command),
            Server::Sentinel(sentinel) => sentinel.req_packed_command(command),
        };
        within(span, running)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let span = Call::Redis { command: "pipeline" }.span();
        let running = match &mut self.0 {
            Server::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Server::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
            Server::Sentinel(sentinel) => sentinel.req_packed_commands(pipeline, offset, count),
        };
        within(span, running)
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Server::Single(connection) => connection.get_db(),
            Server::Cluster(connection) => connection.get_db(),
            Server::Sentinel(sentinel) => sentinel.get_db(),
        }
    }
}
