//! The outbox: jobs written in the same transaction as the change they follow from.
//!
//! A row stands behind its job until the job has finished, so MongoDB can rebuild whatever Redis
//! loses. Rows are removed in batches once the job's effect is done; a job that went to the dead
//! letters keeps its row, marked, so that its dead letter cannot be lost either.

use common::{
    db::{DbError, IndexPlan, PlatformOwned, PlatformScope, Record, Store, Txn, schema, schema::Validator},
    id::{JobId, TenantId},
    telemetry::metrics,
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Envelope, Failure, Job, Queue, handover::count_duplicates, unique::UniqueKey};

/// A staged job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutboxRow {
    /// The job's id.
    #[serde(rename = "_id")]
    pub id: JobId,
    /// Name of the queue it waits in.
    pub queue: String,
    /// What it is.
    pub kind: String,
    /// The version of the payload's shape.
    pub version: u16,
    /// The tenant it is done for, if any.
    pub tenant_id: Option<TenantId>,
    /// The job as JSON.
    pub payload: String,
    /// The trace it belongs to (W3C `traceparent`).
    pub traceparent: Option<String>,
    /// When it was staged.
    pub staged_at: DateTime,
    /// When it is to start, if later.
    pub due_at: Option<DateTime>,
    /// What it is unique by, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unique: Option<UniqueKey>,
    /// When the relay saw that Redis has it. Jobs that finish within a relay's round never get
    /// this far, which saves them a write.
    pub handed_at: Option<DateTime>,
    /// When it went to the dead letters.
    pub dead_at: Option<DateTime>,
    /// What went wrong, for a dead letter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
}

impl Record for OutboxRow {
    const COLLECTION: &'static str = "outbox";
}
impl PlatformOwned for OutboxRow {}

pub(crate) const INDEXES: &[IndexPlan] = &[IndexPlan {
    collection: OutboxRow::COLLECTION,
    name: "outbox_state",
    keys: &[("dead_at", 1), ("handed_at", 1), ("_id", 1)],
    unique: false,
    ttl: false,
}];

pub(crate) const VALIDATOR: Validator = Validator {
    collection: OutboxRow::COLLECTION,
    required: &[
        ("_id", schema::STRING),
        ("queue", schema::STRING),
        ("kind", schema::STRING),
        ("version", schema::INTEGER),
        ("payload", schema::STRING),
        ("staged_at", schema::DATE),
        ("due_at", schema::DATE_OR_NULL),
        ("handed_at", schema::DATE_OR_NULL),
        ("dead_at", schema::DATE_OR_NULL),
    ],
};

/// What the outbox says of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RowState {
    /// It is to run.
    Waiting,
    /// It has run: its row is gone.
    Gone,
    /// It went to the dead letters with this error.
    Dead(String),
}

impl RowState {
    /// Asks the outbox of `envelope`'s job; one that was never staged is always to run.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn of(store: &Store, envelope: &Envelope) -> Result<Self, DbError> {
        if !envelope.staged {
            return Ok(Self::Waiting);
        }
        let row = store.records::<OutboxRow>(PlatformScope).find(doc! { "_id": envelope.id }).await?;
        Ok(match row {
            None => Self::Gone,
            Some(row) if row.dead_at.is_none() => Self::Waiting,
            Some(row) => Self::Dead(row.failures.last().map(|failure| failure.error.clone()).unwrap_or_default()),
        })
    }
}

/// What a transaction's body noted for the fast path: a row that it staged.
pub(crate) struct Staged(pub(crate) OutboxRow);

/// Stages `job`: it will run if, and only if, the transaction commits.
///
/// # Errors
/// When the store fails.
pub async fn stage<J: Job>(txn: &mut Txn, tenant: Option<TenantId>, job: &J) -> Result<JobId, DbError> {
    stage_row(txn, tenant, job, None).await
}

/// Stages `job` to start at `due`, to the millisecond, or at once when that has passed.
///
/// # Errors
/// When the store fails.
pub async fn stage_at<J: Job>(txn: &mut Txn, tenant: Option<TenantId>, job: &J, due: DateTime) -> Result<JobId, DbError> {
    stage_row(txn, tenant, job, Some(due)).await
}

async fn stage_row<J: Job>(txn: &mut Txn, tenant: Option<TenantId>, job: &J, due_at: Option<DateTime>) -> Result<JobId, DbError> {
    let payload = serde_json::to_string(job).map_err(|error| DbError::Shape(format!("job {}: {error}", J::KIND)))?;
    let row = OutboxRow {
        id: txn.ambient().id(),
        queue: J::QUEUE.name().to_owned(),
        kind: J::KIND.to_owned(),
        version: J::VERSION,
        tenant_id: tenant,
        payload,
        traceparent: common::telemetry::trace::current_traceparent(),
        staged_at: txn.ambient().now(),
        due_at,
        unique: job.unique().map(|unique| UniqueKey::new(J::KIND, &unique)),
        handed_at: None,
        dead_at: None,
        failures: Vec::new(),
    };
    txn.records::<OutboxRow>(PlatformScope).insert(&row).await?;
    metrics::JOBS_STAGED.with_label_values(&[J::QUEUE.name(), J::KIND]).inc();
    let id = row.id;
    txn.note(Staged(row));
    Ok(id)
}

impl OutboxRow {
    /// The queue it waits in, if this release knows it.
    pub(crate) fn queue(&self) -> Option<Queue> {
        self.queue.parse().ok()
    }

    /// The envelope for its first attempt.
    ///
    /// # Errors
    /// When the payload is not JSON, which [`stage`] rules out.
    pub(crate) fn envelope(&self) -> Result<Envelope, serde_json::Error> {
        Ok(Envelope {
            id: self.id,
            kind: self.kind.clone(),
            version: self.version,
            tenant: self.tenant_id,
            attempt: 1,
            enqueued_at: self.staged_at.timestamp_millis(),
            due_at: self.due_at.map(DateTime::timestamp_millis),
            traceparent: self.traceparent.clone(),
            unique: self.unique.clone(),
            staged: true,
            redelivered: false,
            failures: self.failures.clone(),
            payload: RawValue::from_string(self.payload.clone())?,
        })
    }
}

/// Removes the rows of jobs that were dropped because another holds what they are unique by.
///
/// # Errors
/// When the store fails; the relay finds the rows again, and the answer is the same for as long as
/// the other one holds on.
pub(crate) async fn forget_duplicates(store: &Store, queue: Queue, ids: &[JobId]) -> Result<(), DbError> {
    if ids.is_empty() {
        return Ok(());
    }
    let rows = store.records::<OutboxRow>(PlatformScope);
    rows.delete_all(doc! { "_id": { "$in": ids.to_vec() }, "dead_at": null }).await?;
    count_duplicates(queue, ids.len());
    Ok(())
}
