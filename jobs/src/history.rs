//! History: what became of each job, kept for as long as `jobs.history_ttl` says; off by default.
//!
//! An entry is written when its job is settled, before the outbox row goes, and keyed by the job's
//! id: settling again replaces it, and so does the end of a dead letter's other try. It is a
//! record and not a promise: where MongoDB refuses entries, or cannot be reached for
//! five seconds, they are lost, told in the log and counted, and jobs are settled without.

use std::{fmt, str::FromStr, time::Duration};

use common::{
    backoff::reconnect_delay,
    clock::later,
    db::{
        DbError, IndexPlan, PlatformOwned, PlatformScope, Record, Store, TenantScope,
        schema::{self, Validator},
    },
    id::{JobId, TenantId},
    telemetry::metrics,
};
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{Envelope, Jobs, Queue, envelope::bounded};

/// The most that settling waits for MongoDB to take a batch of entries.
const WRITE_MAX: Duration = Duration::from_secs(5);
/// The most entries that one look gives.
pub const ENTRIES_MAX: u32 = 1_000;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Its effect is done.
    Success,
    /// It went to the dead letters.
    Dead,
    /// It was cancelled: while it ran, or before. Cancelled jobs that are not told of: those that
    /// were asked to stop and whose attempt failed, or whose worker died, before they did; and of
    /// those enqueued without the outbox the ones that waited behind others of their tenant, where
    /// nothing finds them quickly.
    Cancelled,
}

impl Ended {
    /// Every way to end.
    pub const ALL: &'static [Self] = &[Self::Success, Self::Dead, Self::Cancelled];

    /// Its name in the store, in commands and in answers.
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

/// A text that names no way to end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job ended with success, dead or cancelled")]
pub struct UnknownEnd;

impl FromStr for Ended {
    type Err = UnknownEnd;
    fn from_str(text: &str) -> Result<Self, UnknownEnd> {
        Self::ALL.iter().copied().find(|ended| ended.name() == text).ok_or(UnknownEnd)
    }
}

/// What became of one job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The job's id.
    #[serde(rename = "_id")]
    pub id: JobId,
    /// Name of the queue it waited in.
    pub queue: String,
    /// What it was.
    pub kind: String,
    /// The tenant it was done for, if any.
    pub tenant_id: Option<TenantId>,
    /// How it ended.
    pub outcome: Ended,
    /// Attempts that it took. Not known, and 0, where it was cancelled while it waited behind
    /// others of its tenant.
    pub attempts: u32,
    /// When it was staged or enqueued.
    pub enqueued_at: DateTime,
    /// When its last attempt started; none when it ended its worker, never got to a handler, or was
    /// cancelled while it waited.
    pub started_at: Option<DateTime>,
    /// When it ended.
    pub finished_at: DateTime,
    /// How long its last attempt took, in milliseconds.
    pub duration_ms: Option<i64>,
    /// Why it is dead; bounded.
    pub error: Option<String>,
    /// What its handler answered ([`Running::result`](crate::Running::result)), as JSON.
    pub result: Option<String>,
    /// When it is forgotten.
    expires_at: DateTime,
}

impl Record for HistoryEntry {
    const COLLECTION: &'static str = "job_history";
}
impl PlatformOwned for HistoryEntry {}

pub(crate) const INDEXES: &[IndexPlan] = &[
    IndexPlan {
        collection: HistoryEntry::COLLECTION,
        name: "job_history_expiry",
        keys: &[("expires_at", 1)],
        unique: false,
        ttl: true,
    },
    IndexPlan {
        collection: HistoryEntry::COLLECTION,
        name: "job_history_finished",
        keys: &[("finished_at", -1), ("_id", -1)],
        unique: false,
        ttl: false,
    },
    IndexPlan {
        collection: HistoryEntry::COLLECTION,
        name: "job_history_tenant_finished",
        keys: &[("tenant_id", 1), ("finished_at", -1), ("_id", -1)],
        unique: false,
        ttl: false,
    },
];

pub(crate) const VALIDATOR: Validator = Validator {
    collection: HistoryEntry::COLLECTION,
    required: &[
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
    ],
};

/// An attempt that came to a handler and ended there.
#[derive(Debug)]
pub(crate) struct Ran {
    /// When it started.
    pub(crate) started_at: DateTime,
    /// When it ended.
    pub(crate) ended_at: DateTime,
    /// How the job ended with it.
    pub(crate) outcome: Ended,
    /// What its handler answered, as JSON.
    pub(crate) result: Option<String>,
}

/// The end of a job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End<'a> {
    /// How it ended.
    pub(crate) outcome: Ended,
    /// The attempt that it ended with, if that came to a handler.
    pub(crate) ran: Option<&'a Ran>,
    /// Why it is dead.
    pub(crate) error: Option<&'a str>,
}

impl HistoryEntry {
    /// Where a listing goes on after it.
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

    /// The entry of a job that was cancelled while it waited for the attempt that `envelope` tells.
    pub(crate) fn taken_out(
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

/// Writes entries, if that works within bounds; see the module.
pub(crate) async fn write(store: &Store, entries: &[HistoryEntry]) {
    if entries.is_empty() {
        return;
    }
    let lost = match tokio::time::timeout(WRITE_MAX, write_when_reachable(store, entries)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("MongoDB did not take it within {WRITE_MAX:?}"),
    };
    metrics::JOBS_HISTORY_LOST.inc_by(entries.len() as u64);
    tracing::error!(jobs = entries.len(), error = lost, "history_lost");
}

/// Tries again while MongoDB cannot be reached; a refusal is final.
async fn write_when_reachable(store: &Store, entries: &[HistoryEntry]) -> Result<(), DbError> {
    let mut failures = 0;
    loop {
        match store.records::<HistoryEntry>(PlatformScope).put_all(entries).await {
            // Settled by two workers at the same moment: the next try finds the other's entry
            // there.
            Err(error) if error.is_outage() || matches!(error, DbError::Duplicate(_)) => {
                failures += 1;
                tracing::warn!(%error, failures, "history_not_written");
            }
            ended => return ended,
        }
        tokio::time::sleep(reconnect_delay(failures)).await;
    }
}

/// Where a listing goes on: after an entry, those of the same millisecond told apart by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryCursor {
    finished_at: DateTime,
    id: JobId,
}

impl HistoryCursor {
    /// Those that a listing gives after it.
    fn older(self) -> Document {
        let Self { finished_at, id } = self;
        doc! { "$or": [{ "finished_at": { "$lt": finished_at } }, { "finished_at": finished_at, "_id": { "$lt": id } }] }
    }
}

/// Which entries; everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    /// These jobs only; all when empty.
    pub ids: Vec<JobId>,
    /// Of this queue.
    pub queue: Option<Queue>,
    /// Of this kind.
    pub kind: Option<String>,
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// That ended like this.
    pub outcome: Option<Ended>,
    /// That ended before this.
    pub before: Option<DateTime>,
    /// That a listing gives after this: the last one of a page ([`HistoryEntry::cursor`]) leads to
    /// the next.
    pub after: Option<HistoryCursor>,
}

impl HistoryFilter {
    fn document(&self, now: DateTime) -> Document {
        // MongoDB removes what has expired a while later.
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
    /// Up to `limit` entries (at most [`ENTRIES_MAX`]), those that ended last first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn history(
        &self,
        filter: &HistoryFilter,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, DbError> {
        self.list_history(filter.document(self.store().clock().now()), limit).await
    }

    /// As [`Jobs::history`], of the jobs that were done for `scope`'s tenant.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn history_within(
        &self,
        scope: TenantScope,
        filter: &HistoryFilter,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, DbError> {
        // As a conjunction, so that a filter for another tenant does not give this one's.
        let own = doc! { "tenant_id": scope.tenant_id() };
        let filter = filter.document(self.store().clock().now());
        self.list_history(doc! { "$and": [own, filter] }, limit).await
    }

    /// Some jobs belong to no tenant, hence the platform's scope; a tenant's filter keeps to its
    /// own.
    async fn list_history(
        &self,
        filter: Document,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, DbError> {
        let newest_first = doc! { "finished_at": -1, "_id": -1 };
        // MongoDB takes a limit of zero for none.
        let limit = i64::from(limit.clamp(1, ENTRIES_MAX));
        self.store().records::<HistoryEntry>(PlatformScope).list(filter, newest_first, limit).await
    }
}
