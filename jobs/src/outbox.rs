//! The outbox: jobs written in the same transaction as the change they follow from.
//!
//! A row stands behind its job until the job has finished, so MongoDB can rebuild whatever Redis
//! loses. Rows are removed in batches once the job's effect is done; a job that went to the dead
//! letters keeps its row, marked, so that its dead letter cannot be lost either.

use common::{
    clock::Clock,
    db::{
        DbError, IndexPlan, PlatformOwned, PlatformScope, Record, Store, Txn,
        schema::{self, Validator},
    },
    id::{BatchId, JobId, TenantId},
    telemetry::metrics,
};
use mongodb::bson::{self, DateTime, doc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Envelope, Failure, Job, Queue, batches, envelope::payload_of, handover::count_duplicates,
    queue::Broker, unique::UniqueKey,
};

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
    /// The batch it is one of, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<BatchId>,
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

/// The relay goes through each queue on its own.
pub(crate) const QUEUE_INDEXES: &[IndexPlan] = &[IndexPlan {
    collection: OutboxRow::COLLECTION,
    name: "outbox_queue_state",
    keys: &[("queue", 1), ("dead_at", 1), ("handed_at", 1), ("_id", 1)],
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
        let row =
            store.records::<OutboxRow>(PlatformScope).find(doc! { "_id": envelope.id }).await?;
        Ok(match row {
            None => Self::Gone,
            Some(row) if row.dead_at.is_none() => Self::Waiting,
            Some(row) => Self::Dead(
                row.failures.last().map(|failure| failure.error.clone()).unwrap_or_default(),
            ),
        })
    }
}

/// What a transaction's body noted for the fast path: a row that it staged.
pub(crate) struct Staged(pub(crate) OutboxRow);

/// Stages `job`: it will run if, and only if, the transaction commits.
///
/// # Errors
/// When the store fails.
pub async fn stage<J: Job>(
    txn: &mut Txn,
    tenant: Option<TenantId>,
    job: &J,
) -> Result<JobId, DbError> {
    let row = OutboxRow::of(txn.clock(), tenant, job)?;
    stage_row(txn, row).await
}

/// Stages `job` to start at `due`, to the millisecond, or at once when that has passed.
///
/// # Errors
/// When the store fails.
pub async fn stage_at<J: Job>(
    txn: &mut Txn,
    tenant: Option<TenantId>,
    job: &J,
    due: DateTime,
) -> Result<JobId, DbError> {
    let row = OutboxRow { due_at: Some(due), ..OutboxRow::of(txn.clock(), tenant, job)? };
    stage_row(txn, row).await
}

async fn stage_row(txn: &mut Txn, row: OutboxRow) -> Result<JobId, DbError> {
    txn.records::<OutboxRow>(PlatformScope).insert(&row).await?;
    let id = row.id;
    note(txn, row);
    Ok(id)
}

/// Counts a row that was inserted, and notes it for the fast path.
pub(crate) fn note(txn: &mut Txn, row: OutboxRow) {
    metrics::JOBS_STAGED.with_label_values(&[&row.queue, &row.kind]).inc();
    txn.note(Staged(row));
}

/// Removes the rows of jobs that are done; answers the rows of the jobs that follow, where batches
/// are complete with that. May be repeated.
///
/// # Errors
/// When the store fails; what was done until then stays done.
pub(crate) async fn remove_rows(store: &Store, ids: &[JobId]) -> Result<Vec<OutboxRow>, DbError> {
    if remove_alone(store, ids).await? {
        Ok(Vec::new())
    } else {
        batches::remove_members(store, ids).await
    }
}

/// As [`remove_rows`] of those that belong to no batch; tells whether that was all of them. If not,
/// the rest is gone already or belongs to a batch.
pub(crate) async fn remove_alone(store: &Store, ids: &[JobId]) -> Result<bool, DbError> {
    if ids.is_empty() {
        return Ok(true);
    }
    // A dead letter's row stays, whoever believes that it is done.
    let filter = doc! { "_id": { "$in": ids.to_vec() }, "dead_at": null, "batch_id": null };
    let removed = store.records::<OutboxRow>(PlatformScope).delete_all(filter).await?;
    Ok(removed == ids.len() as u64)
}

/// Marks the row of a job as dead since `died_at`; answers the row of the job that follows, where a
/// batch is complete with that. May be repeated: the first time counts.
///
/// # Errors
/// When the store fails.
pub(crate) async fn mark_dead(
    store: &Store,
    id: JobId,
    died_at: DateTime,
    failures: &[Failure],
) -> Result<Option<OutboxRow>, DbError> {
    let failures =
        bson::serialize_to_bson(failures).map_err(|error| DbError::Shape(error.to_string()))?;
    let update = doc! { "$set": { "dead_at": died_at, "failures": failures } };
    let filter = doc! { "_id": id, "dead_at": null, "batch_id": null };
    if store.records::<OutboxRow>(PlatformScope).update(filter, update.clone()).await? {
        return Ok(None);
    }
    batches::mark_member_dead(store, id, update).await
}

/// Gives the rows of dead letters back to the relay.
///
/// # Errors
/// When the store fails; what was done until then stays done.
pub(crate) async fn revive_rows(store: &Store, ids: &[JobId]) -> Result<(), DbError> {
    if ids.is_empty() {
        return Ok(());
    }
    let filter =
        doc! { "_id": { "$in": ids.to_vec() }, "dead_at": { "$ne": null }, "batch_id": null };
    let update = doc! { "$set": { "dead_at": null, "handed_at": null } };
    let revived =
        store.records::<OutboxRow>(PlatformScope).update_all(filter, update.clone()).await?;
    if revived == ids.len() as u64 {
        Ok(())
    } else {
        batches::revive_members(store, ids, &update).await
    }
}

impl OutboxRow {
    /// The row of `job`, to be inserted by a transaction.
    ///
    /// # Errors
    /// When the job cannot be written as JSON.
    pub(crate) fn of<J: Job>(
        clock: &Clock,
        tenant: Option<TenantId>,
        job: &J,
    ) -> Result<Self, DbError> {
        let payload =
            payload_of(job).map_err(|error| DbError::Shape(format!("job {}: {error}", J::KIND)))?;
        Ok(Self {
            id: clock.id(),
            queue: J::QUEUE.name().to_owned(),
            kind: J::KIND.to_owned(),
            version: J::VERSION,
            tenant_id: tenant,
            payload,
            traceparent: common::telemetry::trace::current_traceparent(),
            staged_at: clock.now(),
            due_at: None,
            unique: job.unique().map(|unique| UniqueKey::new(J::KIND, tenant, &unique)),
            handed_at: None,
            dead_at: None,
            failures: Vec::new(),
            batch_id: None,
        })
    }

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
            parked_at: None,
            traceparent: self.traceparent.clone(),
            unique: self.unique.clone(),
            staged: true,
            redelivered: false,
            failures: self.failures.clone(),
            payload: RawValue::from_string(self.payload.clone())?,
        })
    }
}

/// Removes the rows of jobs that were dropped because another holds what they are unique by, once
/// Redis takes none of them any more: one that came in after its row was gone would keep others
/// from running, and perhaps not run itself.
///
/// # Errors
/// When the store fails, or Redis does. The relay hands the jobs over again: at once where Redis
/// did not remember them, and once that is forgotten where it did; then such a job runs once more.
pub(crate) async fn forget_duplicates(
    store: &Store,
    broker: &Broker,
    queue: Queue,
    ids: &[JobId],
) -> Result<(), ForgetError> {
    let dropped = broker.drop_for_good(queue, ids).await?;
    if dropped.is_empty() {
        return Ok(());
    }
    // What follows a batch that is complete with that is left to the relay.
    remove_rows(store, &dropped).await?;
    count_duplicates(queue, dropped.len());
    Ok(())
}

/// Why the rows of dropped jobs were not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForgetError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
}
