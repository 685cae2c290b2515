//! The numbers of operations, as counted by the databases.

use std::collections::BTreeMap;

use anyhow::Context;
use mongodb::{
    Client,
    bson::{Bson, doc},
};
use serde::Serialize;

use crate::stack::Stack;

/// Counts since the servers started.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Traffic {
    /// `serverStatus.opcounters`.
    pub(super) mongodb: BTreeMap<String, u64>,
    /// The calls of `INFO commandstats`.
    pub(super) redis: BTreeMap<String, u64>,
}

impl Traffic {
    /// Reads the current counts.
    pub(super) async fn now(stack: &Stack) -> anyhow::Result<Self> {
        let servers = stack.servers();
        Ok(Self {
            mongodb: opcounters(&servers.mongod.uri()).await?,
            redis: commandstats(&servers.redis).await?,
        })
    }
}

/// Over its own connection, which always sends the same few commands.
async fn opcounters(uri: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let client = Client::with_uri_str(uri).await?;
    let status = client.database("admin").run_command(doc! { "serverStatus": 1 }).await?;
    client.shutdown().immediate(true).await;
    let counters = status.get_document("opcounters").context("MongoDB reports no opcounters")?;
    let count = |value: &Bson| {
        value
            .as_i64()
            .or_else(|| value.as_i32().map(i64::from))
            .and_then(|count| u64::try_from(count).ok())
    };
    Ok(counters.iter().filter_map(|(name, value)| Some((name.clone(), count(value)?))).collect())
}

async fn commandstats(redis: &testkit::servers::Redis) -> anyhow::Result<BTreeMap<String, u64>> {
    let info: String =
        redis::cmd("INFO").arg("commandstats").query_async(&mut redis.connection().await?).await?;
    Ok(info.lines().filter_map(calls).collect())
}

/// The command and its number of calls, from `cmdstat_get:calls=21,usec=175,…`.
fn calls(line: &str) -> Option<(String, u64)> {
    let (command, told) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
    let (calls, _) = told.split_once(',')?;
    Some((command.to_owned(), calls.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_command() {
        let line = "cmdstat_client|setinfo:calls=12,usec=21,usec_per_call=1.75,rejected_calls=0,failed_calls=0";
        assert_eq!(calls(line), Some(("client|setinfo".to_owned(), 12)));
        assert_eq!(
            ["# Commandstats", "", "cmdstat_get:calls=x,usec=1"].map(calls),
            [None, None, None]
        );
    }
}
