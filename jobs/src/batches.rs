//! Batches: many jobs staged together, and a follow-up job that runs once all of them have ended.
//!
//! The members of a batch are outbox rows with its id. The transaction that removes such rows or
//! marks them dead also updates the batch's counters, by the number of rows it really changed, so
//! that settling a job twice counts once. The transaction that counts the last member inserts the
//! row of the follow-up job. A batch completes only once, whatever happens to its dead letters
//! later.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use common::{
    clock::{Clock, later},
    db::{
        Change, Data, DbError, PlatformScope, Record, Store, TenantScope, Txn,
        schema::{self, Field, Index},
    },
    id::{BatchId, JobId, TenantId},
    origin::Origin,
    telemetry::metrics,
};
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{
    Job, Jobs,
    outbox::{OutboxRow, note},
};

/// Maximum number of jobs in a batch: they are staged in one transaction, which MongoDB aborts
/// after a minute.
pub const JOBS_MAX: usize = 10_000;
/// Maximum total size of a batch's payloads in bytes, for the same reason.
pub const BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a batch can be looked up after it completed.
pub const RETENTION: Duration = Duration::from_hours(30 * 24);
/// Maximum number of batches in one listing.
pub const BATCHES_MAX: u32 = 1_000;

/// The state of a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Batch {
    /// Id of the batch.
    #[serde(rename = "_id")]
    pub id: BatchId,
    /// The tenant it belongs to, if any.
    pub tenant_id: Option<TenantId>,
    /// Number of jobs in the batch.
    pub total: i64,
    /// Number of jobs that have finished.
    pub done: i64,
    /// Number of jobs that are dead letters; one that is retried no longer counts.
    pub dead: i64,
    /// When it was staged.
    pub staged_at: DateTime,
    /// When its last job ended for the first time, and the follow-up job was staged.
    pub completed_at: Option<DateTime>,
    /// When its row expires.
    expires_at: Option<DateTime>,
    /// The row of the follow-up job. Its id is fixed from the beginning, so that even a defect
    /// could not insert it twice.
    callback: OutboxRow,
}

impl Batch {
    /// Id of the follow-up job.
    pub const fn follows(&self) -> JobId {
        self.callback.id
    }

    /// Kind of the follow-up job.
    pub fn follows_kind(&self) -> &str {
        &self.callback.kind
    }
}

impl Record for Batch {
    const COLLECTION: &'static str = "job_batches";
    const DATA: Data = Data::of_platform();
    const INDEXES: &'static [Index] = &[
        Index::expiring("job_batches_expiry", &[("expires_at", 1)], Duration::ZERO),
        // For listings: batches in progress, newest first, then complete ones, latest completion
        // first.
        Index::on("job_batches_completed", &[("completed_at", 1), ("_id", 1)]),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING_OR_NULL),
        ("total", schema::INTEGER),
        ("done", schema::INTEGER),
        ("dead", schema::INTEGER),
        ("staged_at", schema::DATE),
        ("completed_at", schema::DATE_OR_NULL),
        ("expires_at", schema::DATE_OR_NULL),
        ("callback", schema::OBJECT),
    ];
}

/// Why a batch was not staged.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// It has more than [`JOBS_MAX`] jobs.
    #[error(
        "a batch may have at most {JOBS_MAX} jobs; create several batches, or stage jobs that stage the others"
    )]
    TooManyJobs,
    /// Its payloads exceed [`BYTES_MAX`].
    #[error(
        "the payloads of a batch may have at most {BYTES_MAX} bytes; put ids into payloads instead of data"
    )]
    TooManyBytes,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// A batch under construction, with jobs of any kinds. [`NewBatch::stage`] stages it:
///
/// ```ignore
/// let mut batch = NewBatch::new(txn.clock(), Some(tenant));
/// for invitation in invitations {
///     batch.add(&SendInvitation { invitation })?;
/// }
/// let follows = InvitationsSent { batch: batch.id() };
/// batch.stage(txn, &follows).await?;
/// ```
#[derive(Debug)]
pub struct NewBatch {
    id: BatchId,
    tenant: Option<TenantId>,
    clock: Clock,
    rows: Vec<OutboxRow>,
    bytes: usize,
}

impl NewBatch {
    /// A batch without jobs.
    pub fn new(clock: &Clock, tenant: Option<TenantId>) -> Self {
        Self { id: clock.id(), tenant, clock: clock.clone(), rows: Vec::new(), bytes: 0 }
    }

    /// Id of the batch, for the payload of the follow-up job.
    pub const fn id(&self) -> BatchId {
        self.id
    }

    /// Adds a job. Fails if the batch would exceed its limits, or the job cannot be serialized.
    pub fn add<J: Job>(&mut self, job: &J) -> Result<JobId, BatchError> {
        if self.rows.len() == JOBS_MAX {
            return Err(BatchError::TooManyJobs);
        }
        let row =
            OutboxRow { batch_id: Some(self.id), ..OutboxRow::of(&self.clock, self.tenant, job)? };
        self.bytes += row.payload.len();
        if self.bytes > BYTES_MAX {
            return Err(BatchError::TooManyBytes);
        }
        let id = row.id;
        self.rows.push(row);
        Ok(id)
    }

    /// Stages its jobs, and `follows` to run when all of them have finished or died, or at once if
    /// there are none. All of this happens if, and only if, the transaction commits.
    pub async fn stage<J: Job>(self, txn: &mut Txn, follows: &J) -> Result<BatchId, BatchError> {
        let batch = Batch {
            id: self.id,
            tenant_id: self.tenant,
            total: i64::try_from(self.rows.len()).unwrap_or(i64::MAX),
            done: 0,
            dead: 0,
            staged_at: self.clock.now(),
            completed_at: None,
            expires_at: None,
            callback: OutboxRow::of(&self.clock, self.tenant, follows)?,
        };
        txn.records::<Batch>(PlatformScope).insert(&batch).await?;
        if self.rows.is_empty() {
            let callback = complete(txn, batch).await?;
            note(txn, callback);
            return Ok(self.id);
        }
        txn.records::<OutboxRow>(PlatformScope).insert_missing(&self.rows).await?;
        self.rows.into_iter().for_each(|row| note(txn, row));
        Ok(self.id)
    }
}

impl Jobs {
    /// The state of a batch; none if it does not exist, or has expired (see [`RETENTION`]).
    pub async fn batch(&self, batch: BatchId) -> Result<Option<Batch>, DbError> {
        self.find_batch(doc! { "_id": batch }).await
    }

    /// As [`Jobs::batch`], limited to batches of `scope`'s tenant.
    pub async fn batch_within(
        &self,
        scope: TenantScope,
        batch: BatchId,
    ) -> Result<Option<Batch>, DbError> {
        // Some batches belong to no tenant, so this uses the platform's scope; the filter restricts
        // it to the tenant.
        self.find_batch(doc! { "_id": batch, "tenant_id": scope.tenant_id() }).await
    }

    /// Up to `limit` batches (at most [`BATCHES_MAX`]): those in progress, newest first, then
    /// complete ones, latest completion first.
    pub async fn batches(&self, limit: u32) -> Result<Vec<Batch>, DbError> {
        let limit = i64::from(limit.clamp(1, BATCHES_MAX));
        let mut batches = self.list_batches(doc! { "completed_at": null }, limit).await?;
        let left = limit - i64::try_from(batches.len()).unwrap_or(limit);
        // MongoDB treats a limit of zero as unlimited.
        if left > 0 {
            let complete =
                self.list_batches(doc! { "completed_at": { "$ne": null } }, left).await?;
            // A batch that completed between the two queries is listed already.
            let seen: HashSet<BatchId> = batches.iter().map(|batch| batch.id).collect();
            batches.extend(complete.into_iter().filter(|batch| !seen.contains(&batch.id)));
        }
        Ok(batches)
    }

    async fn list_batches(&self, mut filter: Document, limit: i64) -> Result<Vec<Batch>, DbError> {
        self.leave_out_expired(&mut filter);
        // Ids sort by the time the batch was staged.
        let newest_first = doc! { "completed_at": -1, "_id": -1 };
        self.store().records::<Batch>(PlatformScope).list(filter, newest_first, limit).await
    }

    /// MongoDB deletes expired rows with some delay.
    fn leave_out_expired(&self, filter: &mut Document) {
        filter.insert("expires_at", doc! { "$not": { "$lte": self.store().clock().now() } });
    }

    async fn find_batch(&self, mut filter: Document) -> Result<Option<Batch>, DbError> {
        self.leave_out_expired(&mut filter);
        self.store().records::<Batch>(PlatformScope).find(filter).await
    }
}

/// A counter of a batch.
#[derive(Debug, Clone, Copy)]
enum Counter {
    Done,
    Dead,
}

impl Counter {
    const fn field(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }
}

/// Updates a counter; returns the row of the follow-up job if this completes the batch.
async fn count(
    txn: &mut Txn,
    batch: BatchId,
    counter: Counter,
    by: i64,
) -> Result<Option<OutboxRow>, DbError> {
    if by == 0 {
        return Ok(None);
    }
    let update = doc! { "$inc": { counter.field(): by } };
    // None if its dead letter was retried after the batch had expired.
    let Some(batch) =
        txn.records::<Batch>(PlatformScope).find_and_update(doc! { "_id": batch }, update).await?
    else {
        return Ok(None);
    };
    if batch.completed_at.is_some() || batch.done + batch.dead < batch.total {
        return Ok(None);
    }
    complete(txn, batch).await.map(Some)
}

/// Marks the batch complete and inserts the row of the follow-up job.
async fn complete(txn: &mut Txn, batch: Batch) -> Result<OutboxRow, DbError> {
    let now = txn.clock().now();
    let update = doc! { "$set": { "completed_at": now, "expires_at": later(now, RETENTION) } };
    txn.records::<Batch>(PlatformScope).update(doc! { "_id": batch.id }, update).await?;
    let callback = OutboxRow { staged_at: now, ..batch.callback };
    txn.records::<OutboxRow>(PlatformScope).insert(&callback).await?;
    Ok(callback)
}

/// Logs the completion, once it is committed.
fn report(callback: &OutboxRow) {
    metrics::JOBS_STAGED.with_label_values(&[&callback.queue, &callback.kind]).inc();
    tracing::info!(job = %callback.id, kind = callback.kind, "batch_completed");
}

/// Removes the rows of finished members.
struct Removal<'a> {
    batch: BatchId,
    members: &'a [JobId],
}

impl Change for Removal<'_> {
    type Output = Option<OutboxRow>;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<OutboxRow>, DbError> {
        let filter = doc! { "_id": { "$in": self.members.to_vec() }, "batch_id": self.batch, "dead_at": null };
        let removed = txn.records::<OutboxRow>(PlatformScope).delete_all(filter).await?;
        count(txn, self.batch, Counter::Done, signed(removed)).await
    }
}

/// Marks the row of a member as dead.
struct Death {
    member: JobId,
    update: Document,
}

impl Change for Death {
    type Output = Option<OutboxRow>;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<OutboxRow>, DbError> {
        let filter = doc! { "_id": self.member, "dead_at": null };
        let marked = txn
            .records::<OutboxRow>(PlatformScope)
            .find_and_update(filter, self.update.clone())
            .await?;
        match marked.and_then(|row| row.batch_id) {
            Some(batch) => count(txn, batch, Counter::Dead, 1).await,
            None => Ok(None),
        }
    }
}

/// Returns the rows of dead members to the relay.
struct Revival<'a> {
    batch: BatchId,
    members: &'a [JobId],
    update: &'a Document,
}

impl Change for Revival<'_> {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        let filter = doc! { "_id": { "$in": self.members.to_vec() }, "batch_id": self.batch, "dead_at": { "$ne": null } };
        let revived =
            txn.records::<OutboxRow>(PlatformScope).update_all(filter, self.update.clone()).await?;
        count(txn, self.batch, Counter::Dead, -signed(revived)).await.map(drop)
    }
}

/// Removes the rows of those of `ids` that belong to batches; returns the rows of follow-up jobs.
pub(crate) async fn remove_members(
    store: &Store,
    ids: &[JobId],
) -> Result<Vec<OutboxRow>, DbError> {
    let mut following = Vec::new();
    for (batch, members) in by_batch(members(store, ids, doc! { "dead_at": null }).await?) {
        following.extend(remove_members_of(store, batch, &members).await?);
    }
    Ok(following)
}

/// Removes the rows of `members` of `batch`; returns the row of the follow-up job.
pub(crate) async fn remove_members_of(
    store: &Store,
    batch: BatchId,
    members: &[JobId],
) -> Result<Option<OutboxRow>, DbError> {
    Ok(commit(store, &Removal { batch, members }).await?.inspect(report))
}

/// Marks the row of `member` as dead, if it belongs to a batch and is not dead yet; returns the row
/// of the follow-up job.
pub(crate) async fn mark_member_dead(
    store: &Store,
    member: JobId,
    update: Document,
) -> Result<Option<OutboxRow>, DbError> {
    Ok(commit(store, &Death { member, update }).await?.inspect(report))
}

/// Returns the rows of those of `ids` that are dead members of batches to the relay; returns how many.
pub(crate) async fn revive_members(
    store: &Store,
    ids: &[JobId],
    update: &Document,
) -> Result<usize, DbError> {
    let mut revived = 0;
    for (batch, members) in
        by_batch(members(store, ids, doc! { "dead_at": { "$ne": null } }).await?)
    {
        commit(store, &Revival { batch, members: &members, update }).await?;
        revived += members.len();
    }
    Ok(revived)
}

/// Commits a change of the engine's own rows. The caller enqueues the follow-up job, if any.
#[expect(clippy::disallowed_methods, reason = "the change stages nothing and revokes nothing")]
async fn commit<C: Change>(store: &Store, change: &C) -> Result<C::Output, C::Error> {
    let (output, _) = store.commit(&Origin::system(), change).await?;
    Ok(output)
}

/// Those of `ids` that belong to batches, each with its batch.
pub(crate) async fn batches_of(
    store: &Store,
    ids: &[JobId],
) -> Result<HashMap<JobId, BatchId>, DbError> {
    Ok(members(store, ids, Document::new()).await?.into_iter().collect())
}

fn by_batch(members: Vec<(JobId, BatchId)>) -> BTreeMap<BatchId, Vec<JobId>> {
    let mut batches = BTreeMap::<BatchId, Vec<JobId>>::new();
    for (member, batch) in members {
        batches.entry(batch).or_default().push(member);
    }
    batches
}

/// Those of `ids` that belong to batches and match `filter`, each with its batch.
async fn members(
    store: &Store,
    ids: &[JobId],
    mut filter: Document,
) -> Result<Vec<(JobId, BatchId)>, DbError> {
    filter.insert("_id", doc! { "$in": ids.to_vec() });
    filter.insert("batch_id", doc! { "$ne": null });
    let limit = i64::try_from(ids.len()).unwrap_or(i64::MAX);
    let rows =
        store.records::<OutboxRow>(PlatformScope).list(filter, doc! { "_id": 1 }, limit).await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.id, row.batch_id?))).collect())
}

fn signed(rows: u64) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
