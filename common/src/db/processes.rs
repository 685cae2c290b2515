//! Processes at work: a row for each that is running, so that a migration knows whom it would
//! disturb.

use std::{fmt, time::Duration};

use mongodb::bson::{DateTime, doc, serialize_to_document};
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinHandle, time};

use super::{Data, DbError, PlatformScope, Record, Store, schema::Index};
use crate::{clock::earlier, config, id::ProcessId};

/// A process that was not seen for this long is taken for dead. Some heartbeats may be missed.
const ALIVE_WITHIN: Duration = Duration::from_mins(1);
/// How long the row of a process is kept that ended without removing it.
const KEPT_FOR: Duration = Duration::from_hours(1);
/// How long a stopping process tries to remove its row.
const REMOVED_WITHIN: Duration = Duration::from_secs(2);
/// More processes than an installation has.
const LISTED_MAX: i64 = 10_000;

/// A process at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    #[serde(rename = "_id")]
    pub id: ProcessId,
    /// What it does: `api` or `worker`.
    pub kind: String,
    /// Its release.
    pub version: String,
    /// The generation of the schema that its release declares.
    pub generation: i32,
    /// The revision that it was built from; empty if that is not known.
    pub revision: String,
    /// When it started.
    pub started_at: DateTime,
    /// When it last said that it is running.
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
    /// The processes that are running, by the time when they started.
    pub async fn living_processes(&self) -> Result<Vec<Process>, DbError> {
        let since = earlier(self.clock().now(), ALIVE_WITHIN);
        let seen = doc! { "seen_at": { "$gte": since } };
        let rows = self.records::<Process>(PlatformScope);
        rows.list(seen, doc! { "started_at": 1, "_id": 1 }, LISTED_MAX).await
    }
}

/// Says again and again that this process is running, until it is stopped or dropped.
#[derive(Debug)]
pub struct Heartbeat {
    id: ProcessId,
    /// Ends the task when it is dropped.
    running: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Heartbeat {
    /// Announces a process of this kind, whose release declares this generation of the schema. A
    /// heartbeat that fails is only logged.
    pub async fn start(store: &Store, kind: &str, generation: i32, config: &config::App) -> Self {
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
        let (id, interval, store) = (process.id, config.heartbeat_interval, store.clone());
        beat(&store, &process).await;
        let (running, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            while time::timeout(interval, &mut stopped).await.is_err() {
                process.seen_at = store.clock().now();
                beat(&store, &process).await;
            }
            let rows = store.records::<Process>(PlatformScope);
            if let Err(error) = rows.delete_all(doc! { "_id": process.id }).await {
                tracing::warn!(%error, "process_row_not_removed");
            }
        });
        Self { id, running, task }
    }

    /// The id of this process, which log lines and `api migrate status` name.
    pub const fn id(&self) -> ProcessId {
        self.id
    }

    /// Removes the process' row, because it stops.
    pub async fn stop(self) {
        drop(self.running);
        // A row that stays counts as a running process for a minute more.
        if time::timeout(REMOVED_WITHIN, self.task).await.is_err() {
            tracing::warn!("process_row_not_removed");
        }
    }
}

async fn beat(store: &Store, process: &Process) {
    let written = async {
        let row =
            serialize_to_document(process).map_err(|error| DbError::Shape(error.to_string()))?;
        let rows = store.records::<Process>(PlatformScope);
        rows.upsert(doc! { "_id": process.id }, doc! { "$set": row }).await
    };
    if let Err(error) = written.await {
        tracing::warn!(%error, "heartbeat_failed");
    }
}
