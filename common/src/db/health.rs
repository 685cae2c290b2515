//! What MongoDB says about itself. The commands need no privileges beyond those on the database.

use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};

use super::{DbError, Store};
use crate::clock::between;

/// The state of MongoDB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// How far a majority of the replica set is behind the primary, to the second.
    pub replication_lag: Duration,
    /// Bytes in use on the disk of the data; by anything, not only by the database.
    pub disk_used: u64,
    /// Size of that disk in bytes.
    pub disk_size: u64,
    /// Bytes of the database's rows and indexes, uncompressed.
    pub data_size: u64,
}

impl Store {
    /// Asks for the state of MongoDB. Fails with [`DbError::Shape`] if it is not a replica set.
    pub async fn health(&self) -> Result<Health, DbError> {
        let (hello, stats) = futures::try_join!(
            self.command(doc! { "hello": 1 }),
            self.command(doc! { "dbStats": 1 })
        )?;
        let writes = hello.get_document("lastWrite").map_err(|_| missing("lastWrite"))?;
        let time = |name| writes.get_datetime(name).copied().map_err(|_| missing(name));
        let (last, majority) = (time("lastWriteDate")?, time("majorityWriteDate")?);
        Ok(Health {
            replication_lag: between(majority, last),
            disk_used: bytes(&stats, "fsUsedSize")?,
            disk_size: bytes(&stats, "fsTotalSize")?,
            data_size: bytes(&stats, "dataSize")? + bytes(&stats, "indexSize")?,
        })
    }
}

/// A size, for which the server uses any type of number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes are not negative, and exact enough as floating-point numbers"
)]
fn bytes(answer: &Document, name: &str) -> Result<u64, DbError> {
    match answer.get(name) {
        Some(Bson::Int32(size)) => Ok(u64::try_from(*size).unwrap_or_default()),
        Some(Bson::Int64(size)) => Ok(u64::try_from(*size).unwrap_or_default()),
        Some(Bson::Double(size)) => Ok(*size as u64),
        _ => Err(missing(name)),
    }
}

fn missing(name: &str) -> DbError {
    DbError::Shape(format!("MongoDB's answer has no {name}"))
}
