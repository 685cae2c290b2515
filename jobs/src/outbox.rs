//! The outbox: jobs written in the transaction of the change that causes them.
//!
//! A job keeps its row until it has finished, so MongoDB can restore whatever Redis loses. Rows of
//! finished jobs are removed in batches; a dead-lettered job keeps its row, marked as dead, so that
//! its dead letter cannot be lost either.

use common::{
    clock::Clock,
    db::{
        Data, DbError, PlatformScope, Record, Store, Txn,
        schema::{self, Field, Index},
    },
    id::{BatchId, JobId, TenantId},
    telemetry::{metrics, trace},
};
use mongodb::bson::{self, DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    Envelope, Failure, Job, Queue, batches, envelope::payload_of, handover::count_duplicates,
    queue::Broker, unique::UniqueKey,
};

/// A staged job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutboxRow {
    /// Id of the job.
    #[serde(rename = "_id")]
    pub id: JobId,
    /// Name of its queue.
    pub queue: String,
    /// Kind of the job.
    pub kind: String,
    /// Version of the payload's format.
    pub version: u16,
    /// The tenant it belongs to, if any.
    pub tenant_id: Option<TenantId>,
    /// The payload as JSON.
    pub payload: String,
    /// The trace it belongs to (W3C `traceparent`).
    pub traceparent: Option<String>,
    /// The id of the request that caused it, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// When it was staged.
    pub staged_at: DateTime,
    /// When it should start, if later.
    pub due_at: Option<DateTime>,
    /// Its unique key, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unique: Option<UniqueKey>,
    /// When the relay saw that Redis has it. Jobs that finish within a round of the relay are never
    /// marked, which saves a write.
    pub handed_at: Option<DateTime>,
    /// When it became a dead letter.
    pub dead_at: Option<DateTime>,
    /// Its failures, if it is a dead letter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// The batch it belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_id: Option<BatchId>,
}

impl Record for OutboxRow {
    const COLLECTION: &'static str = "outbox";
    const DATA: Data = Data::of_platform();
    const INDEXES: &'static [Index] = &[
        Index::on("outbox_state", &[("dead_at", 1), ("handed_at", 1), ("_id", 1)]),
        // The relay processes each queue separately.
        Index::on(
            "outbox_queue_state",
            &[("queue", 1), ("dead_at", 1), ("handed_at", 1), ("_id", 1)],
        ),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("queue", schema::STRING),
        ("kind", schema::STRING),
        ("version", schema::INTEGER),
        ("payload", schema::STRING),
        ("staged_at", schema::DATE),
        ("due_at", schema::DATE_OR_NULL),
        ("handed_at", schema::DATE_OR_NULL),
        ("dead_at", schema::DATE_OR_NULL),
    ];
}

/// The state of a job according to the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RowState {
    /// It has not ended.
    Waiting,
    /// It has finished: its row was removed.
    Gone,
    /// It became a dead letter with this error.
    Dead(String),
}

impl RowState {
    /// The state of `envelope`'s job; a job that was never staged is always waiting.
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

/// The row of a job of `queue`, if it was staged and has not finished.
pub(crate) async fn row_of(
    store: &Store,
    queue: Queue,
    id: JobId,
) -> Result<Option<OutboxRow>, DbError> {
    let filter = doc! { "_id": id, "queue": queue.name() };
    store.records::<OutboxRow>(PlatformScope).find(filter).await
}

/// Noted in a transaction for the fast path: a row that was staged.
pub(crate) struct Staged(pub(crate) OutboxRow);

/// Stages `job`: it runs if, and only if, the transaction commits.
pub async fn stage<J: Job>(
    txn: &mut Txn,
    tenant: Option<TenantId>,
    job: &J,
) -> Result<JobId, DbError> {
    let row = OutboxRow::of(txn.clock(), tenant, job)?;
    stage_row(txn, row).await
}

/// Stages `job` to start at `due`, to the millisecond, or at once if that time has passed.
pub async fn stage_at<J: Job>(
    txn: &mut Txn,
    tenant: Option<TenantId>,
    job: &J,
    due: DateTime,
) -> Result<JobId, DbError> {
    let row = OutboxRow { due_at: Some(due), ..OutboxRow::of(txn.clock(), tenant, job)? };
    stage_row(txn, row).await
}

/// Up to `limit` staged jobs that have not finished, including dead letters, whose payload contains
/// one of these ids or pseudonyms, in the order in which they were staged. Reads the whole outbox;
/// for operators.
pub async fn mentioning(
    store: &Store,
    names: &[String],
    limit: i64,
) -> Result<Vec<OutboxRow>, DbError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let patterns: Vec<String> = names.iter().map(|name| literal(name)).collect();
    let filter = doc! { "payload": { "$regex": patterns.join("|") } };
    store.records::<OutboxRow>(PlatformScope).list(filter, doc! { "_id": 1 }, limit).await
}

/// `text` as a pattern that matches only itself.
fn literal(text: &str) -> String {
    let is_special = |c: char| c.is_ascii() && !c.is_ascii_alphanumeric();
    text.chars().flat_map(|c| is_special(c).then_some('\\').into_iter().chain([c])).collect()
}

async fn stage_row(txn: &mut Txn, row: OutboxRow) -> Result<JobId, DbError> {
    txn.records::<OutboxRow>(PlatformScope).insert(&row).await?;
    let id = row.id;
    note(txn, row);
    Ok(id)
}

/// Counts an inserted row and notes it for the fast path.
pub(crate) fn note(txn: &mut Txn, row: OutboxRow) {
    metrics::JOBS_STAGED.with_label_values(&[&row.queue, &row.kind]).inc();
    txn.note(Staged(row));
}

/// Removes the rows of finished jobs; returns the rows of follow-up jobs of batches that this
/// completes. May be repeated; on error, some rows may be removed already.
pub(crate) async fn remove_rows(store: &Store, ids: &[JobId]) -> Result<Vec<OutboxRow>, DbError> {
    if remove_alone(store, ids).await? {
        Ok(Vec::new())
    } else {
        batches::remove_members(store, ids).await
    }
}

/// As [`remove_rows`], for rows without a batch; returns whether those were all of `ids`. If not,
/// the others are removed already or belong to a batch.
pub(crate) async fn remove_alone(store: &Store, ids: &[JobId]) -> Result<bool, DbError> {
    if ids.is_empty() {
        return Ok(true);
    }
    // The row of a dead letter stays, even if a stale worker reports success.
    let filter = doc! { "_id": { "$in": ids.to_vec() }, "dead_at": null, "batch_id": null };
    let removed = store.records::<OutboxRow>(PlatformScope).delete_all(filter).await?;
    Ok(removed == ids.len() as u64)
}

/// Marks the row of a job as dead since `died_at`; returns the row of the follow-up job if this
/// completes a batch. May be repeated; only the first time counts.
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

/// Returns the rows of dead letters to the relay; returns how many were dead. On error, some rows may
/// be returned already.
pub(crate) async fn revive_rows(store: &Store, ids: &[JobId]) -> Result<usize, DbError> {
    if ids.is_empty() {
        return Ok(0);
    }
    let filter =
        doc! { "_id": { "$in": ids.to_vec() }, "dead_at": { "$ne": null }, "batch_id": null };
    let update = doc! { "$set": { "dead_at": null, "handed_at": null } };
    let revived =
        store.records::<OutboxRow>(PlatformScope).update_all(filter, update.clone()).await?;
    let revived = usize::try_from(revived).unwrap_or(ids.len());
    if revived == ids.len() {
        Ok(revived)
    } else {
        Ok(revived + batches::revive_members(store, ids, &update).await?)
    }
}

impl OutboxRow {
    /// The row of `job`, to be inserted in a transaction. Fails if the job cannot be serialized.
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
            traceparent: trace::current_traceparent(),
            request_id: trace::current_request_id(),
            staged_at: clock.now(),
            due_at: None,
            unique: job.unique().map(|unique| UniqueKey::new(J::KIND, tenant, &unique)),
            handed_at: None,
            dead_at: None,
            failures: Vec::new(),
            batch_id: None,
        })
    }
}

/// Removes the rows of jobs that were dropped because another job holds their unique key. Redis is
/// first instructed to reject them: a job that arrived after its row was removed would block others
/// and perhaps not run itself. On error the relay enqueues the jobs again, at once if Redis did not
/// remember them, otherwise once Redis has forgotten them; then such a job runs once more.
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
    // The relay enqueues follow-up jobs of batches that this completes.
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
