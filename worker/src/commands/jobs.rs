//! `worker jobs`: inspecting jobs, and which of them a command controls.

use std::collections::HashSet;

use anyhow::Context;
use clap::{Args, Subcommand, builder::RangedU64ValueParser};
use common::{
    cli::{self, Output},
    clock::Clock,
    config::Period,
    id::JobId,
    origin::Reason,
};
use domain::{queues, tenancy::tenants::TenantRef};
use jobs::{
    Cursor, JobFilter, JobState, JobView, Jobs, Queue,
    progress::{Progress, ProgressError},
};

use super::{
    Desk, UsageError,
    arguments::queue,
    control,
    history::{self, EntryView, HistoryQuery},
    text::{Shown, ago, quoted, summary, summary_json, whole},
};

/// Maximum number of jobs listed.
const LIST_MAX: u64 = 1_000;

/// Commands for jobs.
#[derive(Subcommand)]
pub(crate) enum JobsCommand {
    /// List jobs. Without --state, those are dead letters, newest first, or with --request, jobs in
    /// every state.
    List {
        #[command(flatten)]
        filters: Filters,
        /// Jobs in this state: staged, held, delayed, ready, running or dead. May be repeated.
        #[arg(long)]
        state: Vec<JobState>,
        /// Continue after this job: the last one of the previous page.
        #[arg(long, value_name = "JOB")]
        after: Option<JobId>,
        /// Maximum number of jobs.
        #[arg(long, default_value_t = 50, value_parser = RangedU64ValueParser::<usize>::new().range(1..=LIST_MAX))]
        limit: usize,
    },
    /// List how jobs ended, newest first; requires `jobs.history_ttl`.
    History(HistoryQuery),
    /// Show one job in any state, with its failures and progress, or how it ended.
    Show {
        /// Id of the job.
        job: JobId,
    },
    /// Retry failed jobs: dead letters, beginning with their first attempt, or delayed jobs, whose
    /// next attempt then starts now. Jobs that have not failed stay as they are.
    Retry {
        #[command(flatten)]
        which: Which,
        /// State of the jobs that the filters select: dead (the default) or delayed. Jobs given by id
        /// may be in either.
        #[arg(long)]
        state: Option<JobState>,
        /// Reason, which is recorded in the audit log.
        #[arg(long)]
        reason: Option<Reason>,
    },
    /// Run delayed jobs before they are due, such as those staged for later.
    RunNow {
        /// Ids of jobs.
        #[arg(required = true)]
        jobs: Vec<JobId>,
        /// Only show which jobs would run.
        #[arg(long)]
        dry_run: bool,
        /// Reason, which is recorded in the audit log.
        #[arg(long, required_unless_present = "dry_run")]
        reason: Option<Reason>,
    },
    /// Cancel jobs: those that have not started will not run, running ones are stopped.
    Cancel {
        #[command(flatten)]
        which: Which,
        /// State of the jobs that the filters select: staged, held, delayed, ready or running; by
        /// default all but running. May be repeated.
        #[arg(long)]
        state: Vec<JobState>,
        /// Reason, which is recorded in the audit log.
        #[arg(long, required_unless_present = "dry_run")]
        reason: Option<Reason>,
    },
    /// Delete dead letters permanently.
    Delete {
        #[command(flatten)]
        which: Which,
        /// Reason, which is recorded in the audit log.
        #[arg(long, required_unless_present = "dry_run")]
        reason: Option<Reason>,
    },
}

/// Filters; all given conditions must hold.
#[derive(Args)]
pub(crate) struct Filters {
    /// Jobs of this queue; by default of every queue.
    #[arg(long, value_parser = queue())]
    queue: Option<Queue>,
    /// Jobs of this kind, such as `registration.send_verification`.
    #[arg(long)]
    pub(super) kind: Option<String>,
    /// Jobs of this tenant, by its id or short name.
    #[arg(long)]
    tenant: Option<TenantRef>,
    /// Jobs that the request with this `x-request-id` caused, directly or through other jobs.
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Jobs with this text in their last error.
    #[arg(long)]
    error: Option<String>,
    /// Jobs enqueued longer ago than this (dead letters: died longer ago), such as 30m, 24h or 7d.
    #[arg(long)]
    older_than: Option<Period>,
}

/// Selects the jobs of a command.
#[derive(Args)]
pub(crate) struct Which {
    /// Ids of jobs.
    pub(super) jobs: Vec<JobId>,
    #[command(flatten)]
    pub(super) filters: Filters,
    /// All jobs, if no id or filter is given.
    #[arg(long)]
    all: bool,
    /// Only show which jobs would be affected.
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Filters {
    async fn filter(&self, desk: &Desk<'_>) -> anyhow::Result<JobFilter> {
        let before =
            self.older_than.map(|Period(age)| ago(Clock::system().now(), age).timestamp_millis());
        Ok(JobFilter {
            ids: Vec::new(),
            kind: self.kind.clone(),
            tenant: desk.tenant(self.tenant.as_ref()).await?,
            request_id: self.request.clone(),
            error: self.error.clone(),
            before,
        })
    }

    /// As words of a command.
    fn words(&self) -> Vec<String> {
        let named = [
            ("queue", self.queue.map(|queue| queue.to_string())),
            ("kind", self.kind.clone()),
            ("tenant", self.tenant.as_ref().map(TenantRef::to_string)),
            ("request", self.request.clone()),
            ("error", self.error.clone()),
            ("older-than", self.older_than.map(|Period(age)| format!("{}ms", age.as_millis()))),
        ];
        named
            .into_iter()
            .filter_map(|(name, value)| Some(format!("--{name} {}", quoted(&value?))))
            .collect()
    }

    /// Whether any filter is given.
    fn narrow(&self) -> bool {
        self.queue.is_some()
            || self.kind.is_some()
            || self.tenant.is_some()
            || self.request.is_some()
            || self.error.is_some()
            || self.older_than.is_some()
    }

    pub(super) fn queues(&self) -> Vec<Queue> {
        self.queue.map_or_else(|| queues::ALL.to_vec(), |queue| vec![queue])
    }
}

impl Which {
    /// The filter for the selected jobs, if the selection with `states` is unambiguous.
    pub(super) async fn filter(
        &self,
        desk: &Desk<'_>,
        states: &[JobState],
    ) -> anyhow::Result<JobFilter> {
        let filters = self.all || self.filters.narrow();
        match (self.jobs.is_empty(), filters) {
            // A job excluded by a filter would be reported as not found.
            (false, true) => {
                Err(UsageError::new("select jobs by id or by filters, not both").into())
            }
            (false, false) if !states.is_empty() => Err(UsageError::new(
                "--state applies to filters only; jobs given by id are selected in any state",
            )
            .into()),
            (true, false) => Err(UsageError::new(
                "select jobs by id, with --queue, --kind, --tenant, --request, --error or --older-than, or with --all",
            )
            .into()),
            (false, false) | (true, true) => {
                Ok(JobFilter { ids: self.jobs.clone(), ..self.filters.filter(desk).await? })
            }
        }
    }

    /// Without repeated ids.
    fn once(self) -> Self {
        Self { jobs: once(self.jobs), ..self }
    }
}

/// The ids in their order, each once.
pub(super) fn once(mut jobs: Vec<JobId>) -> Vec<JobId> {
    let mut seen = HashSet::new();
    jobs.retain(|id| seen.insert(*id));
    jobs
}

pub(super) async fn run(desk: &Desk<'_>, command: JobsCommand) -> anyhow::Result<()> {
    match command {
        JobsCommand::List { filters, state, after, limit } => {
            list(desk, &ListQuery { filters, state, after, limit }).await
        }
        JobsCommand::History(query) => history::list(desk, &query).await,
        JobsCommand::Show { job } => show(desk, job).await,
        JobsCommand::Retry { which, state, reason } => {
            control::retry(desk, &which.once(), state, reason).await
        }
        JobsCommand::RunNow { jobs, dry_run, reason } => {
            control::run_now(desk, &once(jobs), dry_run, reason).await
        }
        JobsCommand::Cancel { which, state, reason } => {
            control::cancel(desk, &which.once(), &state, reason).await
        }
        JobsCommand::Delete { which, reason } => control::delete(desk, &which.once(), reason).await,
    }
}

/// Which jobs are listed.
struct ListQuery {
    filters: Filters,
    state: Vec<JobState>,
    after: Option<JobId>,
    limit: usize,
}

impl ListQuery {
    /// The states to list, in order.
    fn states(&self) -> &[JobState] {
        match self.state.as_slice() {
            [] if self.filters.request.is_some() => JobState::ALL,
            [] => &[JobState::Dead],
            given => given,
        }
    }

    /// The parts of the list: each state of each queue, from `--after` on, with the cursor at which
    /// the first of them begins.
    async fn parts(&self, jobs: &Jobs) -> anyhow::Result<Vec<(JobState, Queue, Option<Cursor>)>> {
        let queues = self.filters.queues();
        let all =
            self.states().iter().flat_map(|state| queues.iter().map(|queue| (*state, *queue)));
        let mut parts: Vec<_> = all.map(|(state, queue)| (state, queue, None)).collect();
        let Some(id) = self.after else { return Ok(parts) };
        let begin = jobs.place(id).await?.and_then(|(job, cursor)| {
            let its = (job.status.state(), job.queue);
            let begin = parts.iter().position(|(state, queue, _)| (*state, *queue) == its)?;
            Some((begin, cursor))
        });
        let (begin, cursor) = begin.with_context(|| {
            format!(
                "{id} is no longer among these jobs, so the list cannot continue after it; start again without --after"
            )
        })?;
        let mut parts = parts.split_off(begin);
        if let Some((_, _, after)) = parts.first_mut() {
            *after = Some(cursor);
        }
        Ok(parts)
    }

    /// The command for the next page, after `last`.
    fn next(&self, last: JobId, output: Output) -> String {
        let mut words = vec!["worker jobs list".to_owned()];
        words.extend(self.state.iter().map(|state| format!("--state {state}")));
        words.extend(self.filters.words());
        words.push(format!("--limit {} --after {last}", self.limit));
        words.extend((output == Output::Json).then(|| "--json".to_owned()));
        words.join(" ")
    }
}

async fn list(desk: &Desk<'_>, query: &ListQuery) -> anyhow::Result<()> {
    let (filters, limit) = (&query.filters, query.limit);
    let filter = filters.filter(desk).await?;
    let mut list = desk.output.list(None);
    let mut latest = None;
    for (state, queue, after) in query.parts(&desk.jobs).await? {
        let mut pages = Pages::new(&desk.jobs, queue, state, &filter).after(after);
        while list.rows() < limit
            && let Some(page) = pages.next(limit - list.rows()).await?
        {
            for job in &page {
                list.row(&summary_json(job)?, &summary(job))?;
                latest = job.id;
            }
        }
    }
    desk.check_kind(filters.kind.as_deref(), list.rows())?;
    desk.check_tenant(filter.tenant, list.rows()).await?;
    if list.rows() >= limit {
        let next =
            latest.map_or_else(|| "see --limit".to_owned(), |last| query.next(last, desk.output));
        cli::note(&format!("{limit} shown; there may be more: {next}"));
    }
    let states: Vec<&str> = query.states().iter().map(|state| state.name()).collect();
    let matching = if filters.narrow() { " that match" } else { "" };
    list.end(&format!("there are no {} jobs{matching}", states.join(" or ")));
    Ok(())
}

/// The pages of a listing.
pub(super) struct Pages<'a> {
    jobs: &'a Jobs,
    queue: Queue,
    state: JobState,
    filter: &'a JobFilter,
    after: Option<Cursor>,
    ended: bool,
}

impl<'a> Pages<'a> {
    pub(super) const fn new(
        jobs: &'a Jobs,
        queue: Queue,
        state: JobState,
        filter: &'a JobFilter,
    ) -> Self {
        Self { jobs, queue, state, filter, after: None, ended: false }
    }

    /// Begins after a job.
    fn after(self, after: Option<Cursor>) -> Self {
        Self { after, ..self }
    }

    /// The next page, of `limit` jobs at most; none at the end.
    pub(super) async fn next(&mut self, limit: usize) -> anyhow::Result<Option<Vec<JobView>>> {
        if self.ended {
            return Ok(None);
        }
        let page =
            self.jobs.list(self.queue, self.state, self.filter, self.after.as_ref(), limit).await?;
        self.ended = page.next.is_none();
        self.after = page.next;
        Ok(Some(page.jobs))
    }
}

async fn show(desk: &Desk<'_>, id: JobId) -> anyhow::Result<()> {
    let Some(job) = desk.jobs.find(id).await? else { return show_ended(desk, id).await };
    let shown = Shown { job: &job, progress: progress(&desk.jobs, id).await? };
    Ok(desk.output.show(&shown, whole(&shown))?)
}

/// How far a job is. Progress written by another release does not prevent showing the job.
async fn progress(jobs: &Jobs, id: JobId) -> anyhow::Result<Option<Progress>> {
    match jobs.progress(id).await {
        Err(error @ ProgressError::Json(_)) => {
            cli::note(&error.to_string());
            Ok(None)
        }
        found => Ok(found?),
    }
}

/// Shows how a job ended.
async fn show_ended(desk: &Desk<'_>, id: JobId) -> anyhow::Result<()> {
    let found = history::find(&desk.jobs, id).await?;
    let off = if desk.config.jobs.history_ttl.is_none() { "; the history is off" } else { "" };
    let entry = found.with_context(|| {
        format!("{id} was not found: it has ended, was cancelled or deleted, or never existed{off}")
    })?;
    Ok(desk.output.show(&EntryView::of(&entry), history::whole(&entry))?)
}
