//! The ways to Redis: a shared connection for commands, one of their own for blocking reads, and
//! subscriptions. All reconnect or are made anew; nothing here ends because Redis did.

use std::time::Duration;

use common::config;
use redis::{
    AsyncConnectionConfig, Client, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection, PubSub},
};
use secrecy::ExposeSecret;

/// Attempts of one command to reconnect before it fails; whoever sent it tries again with backoff.
const RECONNECTS: usize = 1;
/// The first wait before a reconnection and the longest.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(50);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(1);

/// How Redis is reached. Cheap to clone; clones share a connection.
#[derive(Clone)]
pub(crate) struct Connections {
    client: Client,
    shared: ConnectionManager,
    timeout: Duration,
}

/// A connection of its own for blocking reads: they would hold up everything else on a shared one.
pub(crate) struct Reader {
    pub(crate) connection: MultiplexedConnection,
    /// What the server calls the connection: by this its blocking read can be ended from elsewhere.
    pub(crate) id: i64,
}

impl Connections {
    /// Connects at the first command.
    ///
    /// # Errors
    /// When the address cannot be understood.
    pub(crate) fn new(redis: &config::Redis) -> RedisResult<Self> {
        let client = Client::open(redis.url.expose_secret())?;
        let manager = ConnectionManagerConfig::new()
            .set_number_of_retries(RECONNECTS)
            .set_min_delay(RECONNECT_DELAY_MIN)
            .set_max_delay(RECONNECT_DELAY_MAX)
            .set_connection_timeout(Some(redis.timeout))
            .set_response_timeout(Some(redis.timeout));
        let shared = ConnectionManager::new_lazy_with_config(client.clone(), manager)?;
        Ok(Self { client, shared, timeout: redis.timeout })
    }

    /// The connection for commands that answer at once.
    pub(crate) fn shared(&self) -> ConnectionManager {
        self.shared.clone()
    }

    /// A connection for blocking reads of the stream at `key`.
    pub(crate) async fn reader(&self, _key: &str) -> RedisResult<Reader> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(self.timeout)).set_response_timeout(None);
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let id = redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await?;
        Ok(Reader { connection, id })
    }

    /// Ends the blocking read of `reader` on the stream at `key`; tells whether there was one.
    pub(crate) async fn unblock(&self, _key: &str, reader: i64) -> RedisResult<bool> {
        redis::cmd("CLIENT").arg("UNBLOCK").arg(reader).query_async(&mut self.shared()).await
    }

    /// A connection for subscriptions to channels that scripts on `key`'s slot publish to.
    pub(crate) async fn subscriber(&self, _key: &str) -> RedisResult<PubSub> {
        let connecting = tokio::time::timeout(self.timeout, self.client.get_async_pubsub()).await;
        connecting.map_err(|_| redis::RedisError::from((redis::ErrorKind::Io, "connecting took too long")))?
    }
}
