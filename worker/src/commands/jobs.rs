//! `worker jobs`: inspecting jobs, and which of them a command controls.

use anyhow::Context;
use clap::{Args, Subcommand, builder::RangedU64ValueParser};
use common::{
    cli,
    clock::Clock,
    config::Period,
    id::{JobId, TenantId},
    origin::Reason,
};
use domain::queues;
use jobs::{
    Cursor, JobFilter, JobState, JobView, Jobs, Queue,
    progress::{Progress, ProgressError},
};

use super::{
    Desk, UsageError,
    arguments::queue,
    control,
    history::{self, EntryView, HistoryQuery},
    text::{Shown, ago, summary, summary_json, whole},
};

/// Maximum number of jobs listed.
const LIST_MAX: u64 = 1_000;

/// Commands for jobs.
#[derive(Subcommand)]
pub(crate) enum JobsCommand {
    /// List jobs; without --state, dead letters, newest first.
    List {
        #[command(flatten)]
        filters: Filters,
        /// Jobs in this state: staged, held, delayed, ready, running or dead. May be repeated.
        #[arg(long, default_value = "dead")]
        state: Vec<JobState>,
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
    /// Jobs of this tenant.
    #[arg(long)]
    tenant: Option<TenantId>,
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
    fn filter(&self) -> JobFilter {
        let before =
            self.older_than.map(|Period(age)| ago(Clock::system().now(), age).timestamp_millis());
        JobFilter {
            ids: Vec::new(),
            kind: self.kind.clone(),
            tenant: self.tenant,
            error: self.error.clone(),
            before,
        }
    }

    /// Whether any filter is given.
    fn narrow(&self) -> bool {
        self.queue.is_some()
            || self.kind.is_some()
            || self.tenant.is_some()
            || self.error.is_some()
            || self.older_than.is_some()
    }

    pub(super) fn queues(&self) -> Vec<Queue> {
        self.queue.map_or_else(|| queues::ALL.to_vec(), |queue| vec![queue])
    }
}

impl Which {
    /// The filter for the selected jobs, if the selection with `states` is unambiguous.
    pub(super) fn filter(&self, states: &[JobState]) -> Result<JobFilter, UsageError> {
        let filters = self.all || self.filters.narrow();
        match (self.jobs.is_empty(), filters) {
            // A job excluded by a filter would be reported as not found.
            (false, true) => Err(UsageError::new("select jobs by id or by filters, not both")),
            (false, false) if !states.is_empty() => Err(UsageError::new(
                "--state applies to filters only; jobs given by id are selected in any state",
            )),
            (true, false) => Err(UsageError::new(
                "select jobs by id, with --queue, --kind, --tenant, --error or --older-than, or with --all",
            )),
            (false, false) | (true, true) => {
                Ok(JobFilter { ids: self.jobs.clone(), ..self.filters.filter() })
            }
        }
    }
}

pub(super) async fn run(desk: &Desk<'_>, command: JobsCommand) -> anyhow::Result<()> {
    match command {
        JobsCommand::List { filters, state, limit } => list(desk, &filters, &state, limit).await,
        JobsCommand::History(query) => history::list(desk, &query).await,
        JobsCommand::Show { job } => show(desk, job).await,
        JobsCommand::Retry { which, state, reason } => {
            control::retry(desk, &which, state, reason).await
        }
        JobsCommand::RunNow { jobs, dry_run, reason } => {
            control::run_now(desk, &jobs, dry_run, reason).await
        }
        JobsCommand::Cancel { which, state, reason } => {
            control::cancel(desk, &which, &state, reason).await
        }
        JobsCommand::Delete { which, reason } => control::delete(desk, &which, reason).await,
    }
}

async fn list(
    desk: &Desk<'_>,
    filters: &Filters,
    states: &[JobState],
    limit: usize,
) -> anyhow::Result<()> {
    let filter = filters.filter();
    let mut list = desk.output.list(None);
    for state in states {
        for queue in filters.queues() {
            let mut pages = Pages::new(&desk.jobs, queue, *state, &filter);
            while list.rows() < limit
                && let Some(page) = pages.next(limit - list.rows()).await?
            {
                for job in &page {
                    list.row(&summary_json(job)?, &summary(job))?;
                }
            }
        }
    }
    desk.check_kind(filters.kind.as_deref(), list.rows())?;
    if list.rows() >= limit {
        cli::note(&format!("{limit} shown; there may be more, see --limit"));
    }
    let states: Vec<&str> = states.iter().map(|state| state.name()).collect();
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
