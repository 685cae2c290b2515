//! Configuration of the database.

use std::time::Duration;

use secrecy::SecretString;

use super::{POOL_MAX, reader::Reader};

/// The `mongodb` section.
#[derive(Debug, Clone)]
pub struct Mongodb {
    /// Connection string of a replica set.
    pub uri: SecretString,
    /// Name of the database.
    pub database: String,
    /// Connections that one process opens at most.
    pub pool_max: u32,
    /// How long an operation waits for a server.
    pub timeout: Duration,
}

impl Mongodb {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            uri: r.secret(
                "mongodb.uri",
                "mongodb://127.0.0.1:27017/?replicaSet=rs0",
                "Connection string of a replica set; required in production",
            ),
            database: r.value("mongodb.database", "tenantry", "Name of the database"),
            pool_max: r.count_up_to(
                POOL_MAX,
                "mongodb.pool_max",
                "64",
                "Connections that one process opens at most",
            ),
            timeout: r.period("mongodb.timeout", "5s", "How long an operation waits for a server"),
        }
    }
}
