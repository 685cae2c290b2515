//! `worker jobs history`: how jobs ended.

use anyhow::Context;
use clap::{Args, builder::RangedU64ValueParser};
use common::{
    cli::{self, Output},
    clock::{Clock, rfc3339_millis},
    config::Period,
    id::{JobId, TenantId},
};
use domain::tenancy::tenants::TenantRef;
use jobs::{
    Jobs, Queue,
    history::{ENTRIES_MAX, Ended, HistoryEntry, HistoryFilter},
};
use mongodb::bson::DateTime;
use serde::Serialize;
use serde_json::Value;

use super::{
    Desk,
    arguments::queue,
    jobs::once,
    text::{ago, quoted, span, time},
};

/// Selects entries; all given conditions must hold.
#[derive(Args)]
pub(crate) struct HistoryQuery {
    /// Only these jobs; all jobs if none is given.
    jobs: Vec<JobId>,
    /// Jobs of this queue.
    #[arg(long, value_parser = queue())]
    queue: Option<Queue>,
    /// Jobs of this kind, such as `registration.send_verification`.
    #[arg(long)]
    kind: Option<String>,
    /// Jobs of this tenant, by its id or short name.
    #[arg(long)]
    tenant: Option<TenantRef>,
    /// Jobs with this outcome: success, dead or cancelled.
    #[arg(long)]
    outcome: Option<Ended>,
    /// Jobs that ended longer ago than this, such as 30m, 24h or 7d.
    #[arg(long)]
    older_than: Option<Period>,
    /// Continue after this job: the last one of the previous page.
    #[arg(long, value_name = "JOB")]
    after: Option<JobId>,
    /// Maximum number of entries.
    #[arg(long, default_value_t = 50, value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(ENTRIES_MAX)))]
    limit: u32,
}

impl HistoryQuery {
    async fn filter(&self, desk: &Desk<'_>) -> anyhow::Result<HistoryFilter> {
        let after = match self.after {
            Some(id) => Some(
                find(&desk.jobs, id)
                    .await?
                    .with_context(|| {
                        format!("{id} no longer has a history entry, so the list cannot continue after it")
                    })?
                    .cursor(),
            ),
            None => None,
        };
        Ok(HistoryFilter {
            ids: once(self.jobs.clone()),
            queue: self.queue,
            kind: self.kind.clone(),
            tenant: desk.tenant(self.tenant.as_ref()).await?,
            outcome: self.outcome,
            before: self.older_than.map(|Period(age)| ago(Clock::system().now(), age)),
            after,
        })
    }

    /// The command for the next page, after `last`, which is already older than `--older-than`.
    fn next(&self, last: JobId, output: Output) -> String {
        let mut words = vec!["worker jobs history".to_owned()];
        words.extend(self.jobs.iter().map(ToString::to_string));
        words.extend(self.queue.map(|queue| format!("--queue {queue}")));
        words.extend(self.kind.as_deref().map(|kind| format!("--kind {}", quoted(kind))));
        words.extend(self.tenant.as_ref().map(|tenant| format!("--tenant {tenant}")));
        words.extend(self.outcome.map(|outcome| format!("--outcome {outcome}")));
        words.push(format!("--limit {} --after {last}", self.limit));
        words.extend((output == Output::Json).then(|| "--json".to_owned()));
        words.join(" ")
    }
}

/// Lists entries, newest first.
pub(super) async fn list(desk: &Desk<'_>, query: &HistoryQuery) -> anyhow::Result<()> {
    let filter = query.filter(desk).await?;
    let entries = desk.jobs.history(&filter, query.limit).await?;
    let mut list = desk.output.list(None);
    for entry in &entries {
        list.row(&EntryView::of(entry), &summary(entry))?;
    }
    desk.check_kind(query.kind.as_deref(), entries.len())?;
    desk.check_tenant(filter.tenant, entries.len()).await?;
    let missing: Vec<&JobId> =
        filter.ids.iter().filter(|id| !entries.iter().any(|entry| entry.id == **id)).collect();
    let wants_more = query.jobs.is_empty() || !missing.is_empty();
    if let Some(last) = entries.last()
        && wants_more
        && entries.len() >= query.limit as usize
    {
        let next = query.next(last.id, desk.output);
        cli::note(&format!("{} shown; there may be more: {next}", query.limit));
        return Ok(());
    }
    list.end(if desk.config.jobs.history_ttl.is_none() {
        "the history is off: how jobs end is recorded once `jobs.history_ttl` is set"
    } else {
        "no history entry matches"
    });
    for id in &missing {
        cli::note(&format!(
            "{id} has no matching history entry; if it has not ended, `worker jobs show` shows its state"
        ));
    }
    anyhow::ensure!(
        missing.is_empty(),
        "{} of the given jobs have no matching history entry",
        missing.len()
    );
    Ok(())
}

/// The entry of one job, if any.
pub(super) async fn find(jobs: &Jobs, id: JobId) -> anyhow::Result<Option<HistoryEntry>> {
    let filter = HistoryFilter { ids: vec![id], ..HistoryFilter::default() };
    Ok(jobs.history(&filter, 1).await?.pop())
}

/// An entry as JSON.
#[derive(Serialize)]
pub(super) struct EntryView<'a> {
    id: JobId,
    queue: &'a str,
    kind: &'a str,
    tenant: Option<TenantId>,
    outcome: Ended,
    attempts: u32,
    enqueued_at: String,
    started_at: Option<String>,
    finished_at: String,
    duration_ms: Option<i64>,
    error: Option<&'a str>,
    result: Option<Value>,
}

impl<'a> EntryView<'a> {
    pub(super) fn of(entry: &'a HistoryEntry) -> Self {
        Self {
            id: entry.id,
            queue: &entry.queue,
            kind: &entry.kind,
            tenant: entry.tenant_id,
            outcome: entry.outcome,
            attempts: entry.attempts,
            enqueued_at: rfc3339_millis(entry.enqueued_at),
            started_at: entry.started_at.map(rfc3339_millis),
            finished_at: rfc3339_millis(entry.finished_at),
            duration_ms: entry.duration_ms,
            error: entry.error.as_deref(),
            // Parsed, so that it is embedded on the same line.
            result: entry
                .result
                .as_deref()
                .map(|json| serde_json::from_str(json).unwrap_or_else(|_| json.into())),
        }
    }
}

/// An entry on one line.
fn summary(entry: &HistoryEntry) -> String {
    let (ended, queue, kind) =
        (time(entry.finished_at.timestamp_millis()), &entry.queue, &entry.kind);
    let mut line = format!(
        "{ended}  {}  {queue}  {}  {kind}  attempts={}",
        entry.id, entry.outcome, entry.attempts
    );
    let took = took(entry).map(|took| format!("took {took}"));
    for more in [took, entry.error.clone()].into_iter().flatten() {
        line.push_str("  ");
        line.push_str(&more);
    }
    line
}

/// How long the last attempt took.
fn took(entry: &HistoryEntry) -> Option<String> {
    entry.duration_ms.map(|millis| span(u64::try_from(millis).unwrap_or_default()))
}

/// All details of an entry, one per line.
pub(super) fn whole(entry: &HistoryEntry) -> Vec<String> {
    let at = |at: DateTime| time(at.timestamp_millis());
    let lines = [
        ("job", Some(entry.id.to_string())),
        ("queue", Some(entry.queue.clone())),
        ("state", Some(format!("ended {}: {}", at(entry.finished_at), entry.outcome))),
        ("error", entry.error.clone()),
        ("kind", Some(entry.kind.clone())),
        (
            "tenant",
            Some(entry.tenant_id.map_or_else(|| "-".to_owned(), |tenant| tenant.to_string())),
        ),
        ("attempts", Some(entry.attempts.to_string())),
        ("enqueued", Some(at(entry.enqueued_at))),
        ("started", Some(entry.started_at.map_or_else(|| "-".to_owned(), at))),
        ("took", took(entry)),
        ("result", entry.result.clone()),
    ];
    lines.into_iter().filter_map(|(name, text)| Some(format!("{name:<9} {}", text?))).collect()
}
