//! History: how each job ended, kept for `jobs.history_ttl`; off by default.
//!
//! An entry is written when its job is settled, before the outbox row is removed, and keyed by the
//! job's id: settling the job again, or retrying it as a dead letter, replaces the entry. The
//! history is a record without a guarantee: entries that MongoDB rejects, or cannot store for five
//! seconds, are lost, logged and counted, and their jobs are settled nevertheless.

use std::{fmt, str::FromStr, time::Duration};

use common::{
    backoff::reconnect_delay,
    clock::later,
    db::{
        Data, DbError, PlatformScope, Record, Store, TenantScope,
        schema::{self, Field, Index},
    },
    id::{JobId, TenantId},
    telemetry::metrics,
};
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{Envelope, Jobs, Queue, envelope::bounded};

/// How long settling waits for MongoDB to store a batch of entries.
const WRITE_MAX: Duration = Duration::from_secs(5);
/// Maximum number of entries in one listing.
pub const ENTRIES_MAX: u32 = 1_000;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It succeeded.
    Success,
    /// It became a dead letter.
    Dead,
    /// It was cancelled, while running or before. Some cancelled jobs have no entry: those asked to
    /// stop whose attempt failed, or whose worker died, before they did; and jobs enqueued without
    /// the outbox that were held back, because finding them would be slow.
    Cancelled,
}

impl Ended {
    /// All outcomes.
    pub const ALL: &'static [Self] = &[Self::Success, Self::Dead, Self::Cancelled];

    /// Its name in the database, in commands and in responses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text is not an outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the outcome must be success, dead or cancelled")]
pub struct UnknownEnd;

impl FromStr for Ended {
    type Err = UnknownEnd;
    fn from_str(text: &str) -> Result<Self, UnknownEnd> {
        Self::ALL.iter().copied().find(|ended| ended.name() == text).ok_or(UnknownEnd)
    }
}

/// How a job ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Id of the job.
    #[serde(rename = "_id")]
    pub id: JobId,
    /// Name of its queue.
    pub queue: String,
    /// Kind of the job.
    pub kind: String,
    /// The tenant it belonged to, if any.
    pub tenant_id: Option<TenantId>,
    /// How it ended.
    pub outcome: Ended,
    /// Number of attempts; 0 (unknown) if it was cancelled while held back.
    pub attempts: u32,
    /// When it was staged or enqueued.
    pub enqueued_at: DateTime,
    /// When its last attempt started; none if that crashed its worker, never reached a handler, or
    /// the job was cancelled before it ran.
    pub started_at: Option<DateTime>,
    /// When it ended.
    pub finished_at: DateTime,
    /// Duration of its last attempt in milliseconds.
    pub duration_ms: Option<i64>,
    /// Why it is dead; bounded.
    pub error: Option<String>,
    /// Result reported by its handler ([`Running::result`](crate::Running::result)), as JSON.
    pub result: Option<String>,
    /// When the entry expires.
    expires_at: DateTime,
}

impl Record for HistoryEntry {
    const COLLECTION: &'static str = "job_history";
    const DATA: Data = Data::of_platform();
    const INDEXES: &'static [Index] = &[
        Index::expiring("job_history_expiry", &[("expires_at", 1)], Duration::ZERO),
        Index::on("job_history_finished", &[("finished_at", -1), ("_id", -1)]),
        Index::on(
            "job_history_tenant_finished",
            &[("tenant_id", 1), ("finished_at", -1), ("_id", -1)],
        ),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("queue", schema::STRING),
        ("kind", schema::STRING),
        ("tenant_id", schema::STRING_OR_NULL),
        ("outcome", schema::STRING),
        ("attempts", schema::INTEGER),
        ("enqueued_at", schema::DATE),
        ("started_at", schema::DATE_OR_NULL),
        ("finished_at", schema::DATE),
        ("error", schema::STRING_OR_NULL),
        ("result", schema::STRING_OR_NULL),
        ("expires_at", schema::DATE),
    ];
}

/// An attempt that reached the end of its handler.
#[derive(Debug)]
pub(crate) struct Ran {
    /// When it started.
    pub(crate) started_at: DateTime,
    /// When it ended.
    pub(crate) ended_at: DateTime,
    /// How the job ended with it.
    pub(crate) outcome: Ended,
    /// Result reported by its handler, as JSON.
    pub(crate) result: Option<String>,
}

/// The end of a job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End<'a> {
    /// How it ended.
    pub(crate) outcome: Ended,
    /// The last attempt, if it reached a handler.
    pub(crate) ran: Option<&'a Ran>,
    /// Why it is dead.
    pub(crate) error: Option<&'a str>,
}

impl HistoryEntry {
    /// Cursor with which a listing continues after this entry.
    pub fn cursor(&self) -> HistoryCursor {
        HistoryCursor { finished_at: self.finished_at, id: self.id }
    }

    /// The entry of a job that is settled at `now`.
    pub(crate) fn new(
        queue: Queue,
        envelope: &Envelope,
        end: End<'_>,
        now: DateTime,
        ttl: Duration,
    ) -> Self {
        let End { outcome, ran, error } = end;
        let took = |ran: &Ran| {
            ran.ended_at.timestamp_millis().saturating_sub(ran.started_at.timestamp_millis())
        };
        Self {
            id: envelope.id,
            queue: queue.name().to_owned(),
            kind: envelope.kind.clone(),
            tenant_id: envelope.tenant,
            outcome,
            attempts: envelope.attempt,
            enqueued_at: DateTime::from_millis(envelope.enqueued_at),
            started_at: ran.map(|ran| ran.started_at),
            finished_at: ran.map_or(now, |ran| ran.ended_at),
            duration_ms: ran.map(took),
            error: error.map(bounded),
            result: ran.and_then(|ran| ran.result.clone()),
            expires_at: later(now, ttl),
        }
    }

    /// The entry of a job that was cancelled before the attempt described by `envelope`.
    pub(crate) fn cancelled(
        queue: Queue,
        envelope: &Envelope,
        now: DateTime,
        ttl: Duration,
    ) -> Self {
        let end = End { outcome: Ended::Cancelled, ran: None, error: None };
        Self {
            attempts: envelope.attempt.saturating_sub(1),
            ..Self::new(queue, envelope, end, now, ttl)
        }
    }
}

/// Writes entries within a time limit; see the module.
pub(crate) async fn write(store: &Store, entries: &[HistoryEntry]) {
    if entries.is_empty() {
        return;
    }
    let lost = match tokio::time::timeout(WRITE_MAX, write_when_reachable(store, entries)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("MongoDB did not store it within {WRITE_MAX:?}"),
    };
    metrics::JOBS_HISTORY_LOST.inc_by(entries.len() as u64);
    tracing::error!(jobs = entries.len(), error = lost, "history_lost");
}

/// Retries while MongoDB cannot be reached; a rejection is final.
async fn write_when_reachable(store: &Store, entries: &[HistoryEntry]) -> Result<(), DbError> {
    let mut failures = 0;
    loop {
        match store.records::<HistoryEntry>(PlatformScope).put_all(entries).await {
            // Two workers settled the job at the same moment: the retry finds the other's entry and
            // replaces it.
            Err(error) if error.is_outage() || matches!(error, DbError::Duplicate(_)) => {
                failures += 1;
                tracing::warn!(%error, failures, "history_not_written");
            }
            ended => return ended,
        }
        tokio::time::sleep(reconnect_delay(failures)).await;
    }
}

/// Where a listing continues: after an entry; entries of the same millisecond are ordered by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryCursor {
    finished_at: DateTime,
    id: JobId,
}

impl HistoryCursor {
    /// Matches the entries that follow in a listing.
    fn older(self) -> Document {
        let Self { finished_at, id } = self;
        doc! { "$or": [{ "finished_at": { "$lt": finished_at } }, { "finished_at": finished_at, "_id": { "$lt": id } }] }
    }
}

/// Selects entries; all given conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    /// Only these jobs; all if empty.
    pub ids: Vec<JobId>,
    /// Jobs of this queue.
    pub queue: Option<Queue>,
    /// Jobs of this kind.
    pub kind: Option<String>,
    /// Jobs of this tenant.
    pub tenant: Option<TenantId>,
    /// Jobs with this outcome.
    pub outcome: Option<Ended>,
    /// Jobs that ended before this time.
    pub before: Option<DateTime>,
    /// Entries after this cursor: that of the last entry of a page ([`HistoryEntry::cursor`])
    /// selects the next page.
    pub after: Option<HistoryCursor>,
}

impl HistoryFilter {
    fn document(&self, now: DateTime) -> Document {
        // MongoDB deletes expired rows with some delay.
        let mut filter = doc! { "expires_at": { "$gt": now } };
        if !self.ids.is_empty() {
            filter.insert("_id", doc! { "$in": self.ids.clone() });
        }
        if let Some(queue) = self.queue {
            filter.insert("queue", queue.name());
        }
        if let Some(kind) = &self.kind {
            filter.insert("kind", kind);
        }
        if let Some(tenant) = self.tenant {
            filter.insert("tenant_id", tenant);
        }
        if let Some(outcome) = self.outcome {
            filter.insert("outcome", outcome.name());
        }
        if let Some(before) = self.before {
            filter.insert("finished_at", doc! { "$lt": before });
        }
        if let Some(after) = self.after {
            filter.extend(after.older());
        }
        filter
    }
}

impl Jobs {
    /// Up to `limit` entries (at most [`ENTRIES_MAX`]), most recently ended first.
    pub async fn history(
        &self,
        filter: &HistoryFilter,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, DbError> {
        self.list_history(filter.document(self.store().clock().now()), limit).await
    }

    /// As [`Jobs::history`], limited to jobs of `scope`'s tenant.
    pub async fn history_within(
        &self,
        scope: TenantScope,
        filter: &HistoryFilter,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, DbError> {
        // A conjunction, so that a filter for another tenant matches nothing.
        let own = doc! { "tenant_id": scope.tenant_id() };
        let filter = filter.document(self.store().clock().now());
        self.list_history(doc! { "$and": [own, filter] }, limit).await
    }

    /// Some jobs belong to no tenant, so this uses the platform's scope; the filter of a tenant
    /// restricts it.
    async fn list_history(
        &self,
        filter: Document,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, DbError> {
        let newest_first = doc! { "finished_at": -1, "_id": -1 };
        // MongoDB treats a limit of zero as unlimited.
        let limit = i64::from(limit.clamp(1, ENTRIES_MAX));
        self.store().records::<HistoryEntry>(PlatformScope).list(filter, newest_first, limit).await
    }
}
