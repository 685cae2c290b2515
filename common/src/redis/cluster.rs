//! Redis Cluster: all keys of a queue are in one slot, and each slot on one node.
//!
//! The client library keeps a connection to every node and follows slots that move. Blocking reads
//! and subscriptions need their own connections, for which the nodes are asked which of them serves
//! the slot.

use std::sync::Arc;

use crate::config;
use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, RedisError,
    RedisResult, Value,
    cluster::{ClusterClient, ClusterConfig},
    cluster_async::ClusterConnection,
    cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr},
};
use secrecy::SecretString;

use super::{RECONNECT_DELAY_MAX, RECONNECT_DELAY_MIN, certificates, client};

/// The nodes of a cluster. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(super) struct Cluster {
    connection: ClusterConnection,
    /// How to connect to a node, whatever its address.
    any_node: Arc<ConnectionInfo>,
}

impl Cluster {
    /// Connects in the background. Fails if the addresses or the certificates are invalid.
    pub(super) fn new(nodes: &[SecretString], redis: &config::Redis) -> RedisResult<Self> {
        let certificates = certificates(redis);
        let clients = nodes.iter().map(|node| client(node, certificates.as_ref()));
        let nodes: Vec<ConnectionInfo> = clients
            .map(|client| Ok(client?.get_connection_info().clone()))
            .collect::<RedisResult<_>>()?;
        let any_node = nodes
            .first()
            .cloned()
            .ok_or((ErrorKind::InvalidClientConfig, "no nodes of the cluster are configured"))?;
        let mut builder = ClusterClient::builder(nodes)
            .min_retry_wait(millis(RECONNECT_DELAY_MIN))
            .max_retry_wait(millis(RECONNECT_DELAY_MAX))
            .connection_timeout(redis.timeout)
            // Timeout of a command, including its retries.
            .response_timeout(redis.timeout);
        if let Some(certificates) = certificates {
            builder = builder.certs(certificates);
        }
        let config = ClusterConfig::new()
            .set_connection_timeout(redis.timeout)
            .set_response_timeout(redis.timeout);
        let connection = builder.build()?.get_pending_async_connection_with_config(config);
        Ok(Self { connection, any_node: Arc::new(any_node) })
    }

    /// The connection for commands that name keys.
    pub(super) fn shared(&self) -> ClusterConnection {
        self.connection.clone()
    }

    /// The node that serves `key`'s slot, according to another node.
    pub(super) async fn server_of(&self, key: &str) -> RedisResult<Client> {
        let mut questions = redis::pipe();
        questions.cmd("CLUSTER").arg("KEYSLOT").arg(key).cmd("CLUSTER").arg("SLOTS");
        let count = questions.len();
        let answers = self
            .shared()
            .route_pipeline(questions, 0, count, SingleNodeRoutingInfo::Random)
            .await?;
        let (slot, ranges): (u16, Vec<Vec<Value>>) =
            redis::from_redis_value(Value::Array(answers).extract_error()?)?;
        for range in &ranges {
            if let Some(master) = master_of(slot, range)? {
                return Client::open(self.at(master));
            }
        }
        Err((ErrorKind::ClusterConnectionNotFound, "no node serves the slot", slot.to_string())
            .into())
    }

    /// Sends `command`, which names no key, to the node that serves `key`'s slot.
    pub(super) async fn ask_server_of<T: FromRedisValue>(
        &self,
        key: &str,
        command: Cmd,
    ) -> RedisResult<T> {
        let routing = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
        let answer = self.shared().route_command(command, RoutingInfo::SingleNode(routing)).await?;
        Ok(redis::from_redis_value(answer.extract_error()?)?)
    }

    fn at(&self, (host, port): (String, u16)) -> ConnectionInfo {
        let address = match self.any_node.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        ConnectionInfo::clone(&self.any_node).set_addr(address)
    }
}

/// Host and port of the master in `range`, a row of `CLUSTER SLOTS`, if it contains `slot`.
fn master_of(slot: u16, range: &[Value]) -> RedisResult<Option<(String, u16)>> {
    let [first, last, Value::Array(master), ..] = range else { return Ok(None) };
    let (first, last): (u16, u16) =
        (redis::from_redis_value_ref(first)?, redis::from_redis_value_ref(last)?);
    if !(first..=last).contains(&slot) {
        return Ok(None);
    }
    let [host, port, ..] = master.as_slice() else { return Ok(None) };
    let host: Option<String> = redis::from_redis_value_ref(host)?;
    let unknown = || {
        RedisError::from((
            ErrorKind::InvalidClientConfig,
            "the nodes of the cluster do not announce their addresses",
        ))
    };
    Ok(Some((
        host.filter(|host| !host.is_empty()).ok_or_else(unknown)?,
        redis::from_redis_value_ref(port)?,
    )))
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
