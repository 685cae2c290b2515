//! Running processes: a row for each, so that a migration knows which ones it would affect.

use std::{fmt, time::Duration};

use mongodb::bson::{DateTime, doc, serialize_to_document};
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinHandle, time};

use super::{Data, DbError, PlatformScope, Record, Store, schema::Index};
use crate::{clock::earlier, config, id::ProcessId, telemetry::metrics};

/// A process without a heartbeat for this long is considered dead. Some heartbeats may fail.
const ALIVE_WITHIN: Duration = Duration::from_mins(1);
/// How long the row of a process that ended without removing it is kept.
const KEPT_FOR: Duration = Duration::from_hours(1);
/// Timeout for removing the row when the process stops.
const REMOVED_WITHIN: Duration = Duration::from_secs(2);
/// Maximum number of listed processes, more than any installation has.
const LISTED_MAX: i64 = 10_000;

/// A running process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    #[serde(rename = "_id")]
    pub id: ProcessId,
    /// Its kind: `api` or `worker`.
    pub kind: String,
    /// Its release.
    pub version: String,
    /// The generation of the schema that its release declares.
    pub generation: i32,
    /// The source revision it was built from; empty if unknown.
    pub revision: String,
    /// When it started.
    pub started_at: DateTime,
    /// When its last heartbeat was.
    pub seen_at: DateTime,
}

impl Record for Process {
    const COLLECTION: &'static str = "processes";
    const DATA: Data = Data::of_platform();
    const INDEXES: &'static [Index] =
        &[Index::expiring("processes_ttl", &[("seen_at", 1)], KEPT_FOR)];
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, kind, version, generation, revision, .. } = self;
        write!(f, "{kind} {version} ({id}, schema generation {generation}")?;
        if !revision.is_empty() {
            write!(f, ", revision {revision}")?;
        }
        write!(f, ")")
    }
}

impl Store {
    /// The running processes, in the order in which they started.
    pub async fn living_processes(&self) -> Result<Vec<Process>, DbError> {
        let since = earlier(self.clock().now(), ALIVE_WITHIN);
        let seen = doc! { "seen_at": { "$gte": since } };
        let rows = self.records::<Process>(PlatformScope);
        rows.list(seen, doc! { "started_at": 1, "_id": 1 }, LISTED_MAX).await
    }
}

/// Sends heartbeats of this process until it is stopped or dropped.
#[derive(Debug)]
pub struct Heartbeat {
    process: Process,
    /// Ends the task when it is dropped.
    running: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Heartbeat {
    /// Registers a process of this kind and generation of the schema, and starts its heartbeats.
    /// Once it is registered, a failed heartbeat is only logged.
    ///
    /// Do this before you check the schema: a migration first shuts out older releases and then
    /// looks for their processes, so it misses none.
    pub async fn start(
        store: &Store,
        kind: &str,
        generation: i32,
        config: &config::App,
    ) -> Result<Self, DbError> {
        let now = store.clock().now();
        let mut process = Process {
            id: store.clock().id(),
            kind: kind.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation,
            revision: config.revision.clone(),
            started_at: now,
            seen_at: now,
        };
        let (registered, interval, store) =
            (process.clone(), config.heartbeat_interval, store.clone());
        beat(&store, &process).await?;
        metrics::BUILD_INFO.with_label_values(&[&process.version, &process.revision]).set(1);
        let (running, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            while time::timeout(interval, &mut stopped).await.is_err() {
                process.seen_at = store.clock().now();
                if let Err(error) = beat(&store, &process).await {
                    tracing::warn!(%error, "heartbeat_failed");
                }
            }
            let rows = store.records::<Process>(PlatformScope);
            if let Err(error) = rows.delete_all(doc! { "_id": process.id }).await {
                tracing::warn!(%error, "process_row_not_removed");
            }
        });
        Ok(Self { process: registered, running, task })
    }

    /// This process, as it registered.
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// Removes the row of the process, which is shutting down.
    pub async fn stop(self) {
        drop(self.running);
        // Otherwise the process would be considered running for another minute.
        if time::timeout(REMOVED_WITHIN, self.task).await.is_err() {
            tracing::warn!("process_row_not_removed");
        }
    }
}

async fn beat(store: &Store, process: &Process) -> Result<(), DbError> {
    let row = serialize_to_document(process).map_err(|error| DbError::Shape(error.to_string()))?;
    let rows = store.records::<Process>(PlatformScope);
    rows.upsert(doc! { "_id": process.id }, doc! { "$set": row }).await
}
