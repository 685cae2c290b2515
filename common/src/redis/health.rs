//! What Redis says about itself.

use redis::{ErrorKind, InfoDict, RedisError, RedisResult};

use super::{Connections, Servers};

/// The state of a Redis server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Bytes of memory in use.
    pub memory_used: u64,
    /// The most bytes it may use (`maxmemory`), or the memory of its machine.
    pub memory_limit: u64,
    /// Connected clients.
    pub clients: u64,
    /// Connected replicas.
    pub replicas: u64,
    /// Whether its last attempts to write to its disk succeeded.
    pub saves: bool,
}

impl Connections {
    /// Asks for the state of the server that serves the keys; none for a cluster, whose servers need
    /// an exporter of their own.
    pub async fn health(&self) -> RedisResult<Option<Health>> {
        if matches!(self.servers, Servers::Cluster(_)) {
            return Ok(None);
        }
        let info: InfoDict = redis::cmd("INFO").query_async(&mut self.shared()).await?;
        let number = |name: &'static str| info.get::<u64>(name).ok_or_else(|| missing(name));
        let memory_limit = match number("maxmemory")? {
            0 => number("total_system_memory")?,
            limit => limit,
        };
        let is_ok = |name| info.get::<String>(name).is_none_or(|status| status == "ok");
        Ok(Some(Health {
            memory_used: number("used_memory")?,
            memory_limit,
            clients: number("connected_clients")?,
            replicas: number("connected_slaves")?,
            saves: is_ok("rdb_last_bgsave_status")
                && is_ok("aof_last_write_status")
                && is_ok("aof_last_bgrewrite_status"),
        }))
    }
}

fn missing(name: &'static str) -> RedisError {
    (ErrorKind::UnexpectedReturnType, "Redis does not report a value", name.to_owned()).into()
}
