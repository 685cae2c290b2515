//! `worker jobs`: inspecting, retrying, cancelling and deleting jobs.

use anyhow::Context;
use clap::{Args, Subcommand, builder::RangedU64ValueParser};
use common::{
    clock::Clock,
    config::Period,
    id::{JobId, TenantId},
};
use domain::queues;
use jobs::{
    Cancelled, Cursor, JobFilter, JobState, JobView, Jobs, PAGE_MAX, Queue,
    progress::{Progress, ProgressError},
    queue::DeadLetter,
};

use super::{
    UsageError,
    arguments::queue,
    history::{self, EntryView, HistoryQuery},
    say,
    text::{Shown, ago, count, pretty_json, summary, summary_json, whole},
};

/// The states of a job that has not started.
const WAITING: [JobState; 4] =
    [JobState::Staged, JobState::Held, JobState::Delayed, JobState::Ready];

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
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// List how jobs ended, newest first; requires `jobs.history_ttl`.
    History(HistoryQuery),
    /// Show one job in any state, with its failures and progress, or how it ended.
    Show {
        /// Id of the job.
        job: JobId,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Retry dead letters, beginning with their first attempt, and run delayed jobs now.
    Retry {
        #[command(flatten)]
        which: Which,
        /// State of the jobs that the filters select: dead (the default) or delayed. Jobs given by id
        /// may be in either.
        #[arg(long)]
        state: Option<JobState>,
    },
    /// Cancel jobs: those that have not started will not run, running ones are stopped.
    Cancel {
        #[command(flatten)]
        which: Which,
        /// State of the jobs that the filters select: staged, held, delayed, ready or running; by
        /// default all but running. May be repeated.
        #[arg(long)]
        state: Vec<JobState>,
    },
    /// Delete dead letters permanently.
    Delete {
        #[command(flatten)]
        which: Which,
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
    kind: Option<String>,
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
    jobs: Vec<JobId>,
    #[command(flatten)]
    filters: Filters,
    /// All jobs, if no id or filter is given.
    #[arg(long)]
    all: bool,
    /// Only show which jobs would be affected.
    #[arg(long)]
    dry_run: bool,
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

    fn queues(&self) -> Vec<Queue> {
        self.queue.map_or_else(|| queues::ALL.to_vec(), |queue| vec![queue])
    }
}

impl Which {
    /// The filter for the selected jobs, if the selection with `states` is unambiguous.
    fn filter(&self, states: &[JobState]) -> Result<JobFilter, UsageError> {
        let filters = self.all || self.filters.narrow();
        match (self.jobs.is_empty(), filters) {
            // A job excluded by a filter would be reported as not found.
            (false, true) => Err(UsageError("select jobs by id or by filters, not both")),
            (false, false) if !states.is_empty() => Err(UsageError(
                "--state applies to filters only; jobs given by id are selected in any state",
            )),
            (true, false) => Err(UsageError(
                "select jobs by id, with --queue, --kind, --tenant, --error or --older-than, or with --all",
            )),
            (false, false) | (true, true) => {
                Ok(JobFilter { ids: self.jobs.clone(), ..self.filters.filter() })
            }
        }
    }
}

pub(super) async fn run(jobs: &Jobs, command: JobsCommand) -> anyhow::Result<()> {
    match command {
        JobsCommand::List { filters, state, limit, json } => {
            list(jobs, &filters, &state, limit, json).await
        }
        JobsCommand::History(query) => history::list(jobs, &query).await,
        JobsCommand::Show { job, json } => show(jobs, job, json).await,
        JobsCommand::Retry { which, state } => retry(jobs, &which, state).await,
        JobsCommand::Cancel { which, state } => cancel(jobs, &which, &state).await,
        JobsCommand::Delete { which } => delete(jobs, &which).await,
    }
}

async fn list(
    jobs: &Jobs,
    filters: &Filters,
    states: &[JobState],
    limit: usize,
    as_json: bool,
) -> anyhow::Result<()> {
    let filter = filters.filter();
    let mut left = limit;
    for state in states {
        for queue in filters.queues() {
            let mut pages = Pages::new(jobs, queue, *state, &filter);
            while left > 0
                && let Some(page) = pages.next(left).await?
            {
                left -= page.len();
                for job in &page {
                    say(&if as_json { summary_json(job)? } else { summary(job) })?;
                }
            }
        }
    }
    if left == 0 {
        eprintln!("{limit} shown; there may be more, see --limit");
    }
    Ok(())
}

/// The pages of a listing.
struct Pages<'a> {
    jobs: &'a Jobs,
    queue: Queue,
    state: JobState,
    filter: &'a JobFilter,
    after: Option<Cursor>,
    ended: bool,
}

impl<'a> Pages<'a> {
    const fn new(jobs: &'a Jobs, queue: Queue, state: JobState, filter: &'a JobFilter) -> Self {
        Self { jobs, queue, state, filter, after: None, ended: false }
    }

    /// The next page, of `limit` jobs at most; none at the end.
    async fn next(&mut self, limit: usize) -> anyhow::Result<Option<Vec<JobView>>> {
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

async fn show(jobs: &Jobs, id: JobId, as_json: bool) -> anyhow::Result<()> {
    let Some(job) = jobs.find(id).await? else { return show_ended(jobs, id, as_json).await };
    let shown = Shown { job: &job, progress: progress(jobs, id).await? };
    if as_json {
        return Ok(say(&pretty_json(&shown)?)?);
    }
    Ok(whole(&shown).iter().try_for_each(|line| say(line))?)
}

/// How far a job is. Progress written by another release does not prevent showing the job.
async fn progress(jobs: &Jobs, id: JobId) -> anyhow::Result<Option<Progress>> {
    match jobs.progress(id).await {
        Err(error @ ProgressError::Json(_)) => {
            eprintln!("{error}");
            Ok(None)
        }
        found => Ok(found?),
    }
}

/// Shows how a job ended.
async fn show_ended(jobs: &Jobs, id: JobId, as_json: bool) -> anyhow::Result<()> {
    let found = history::find(jobs, id).await?;
    let entry = found.with_context(|| {
        format!("{id} was not found: it has ended, was cancelled or deleted, or never existed")
    })?;
    if as_json {
        return Ok(say(&pretty_json(&EntryView::of(&entry))?)?);
    }
    Ok(history::whole(&entry).iter().try_for_each(|line| say(line))?)
}

/// The selected dead letters of one queue.
async fn dead_letters(
    jobs: &Jobs,
    queue: Queue,
    filter: &JobFilter,
) -> anyhow::Result<Vec<DeadLetter>> {
    // `jobs.dead_max` bounds their number.
    Ok(jobs.dead_letters(queue, filter, usize::MAX).await?)
}

fn list_letters(queue: Queue, letters: &[DeadLetter]) -> anyhow::Result<()> {
    for letter in letters {
        say(&summary(&letter.view(queue)))?;
    }
    Ok(())
}

async fn retry(jobs: &Jobs, which: &Which, state: Option<JobState>) -> anyhow::Result<()> {
    let filter = which.filter(state.as_slice())?;
    match state.unwrap_or(JobState::Dead) {
        JobState::Dead => retry_dead(jobs, which, &filter).await,
        JobState::Delayed => retry_delayed(jobs, which, &filter).await,
        _ => Err(UsageError("only dead and delayed jobs can be retried").into()),
    }
}

async fn retry_dead(jobs: &Jobs, which: &Which, filter: &JobFilter) -> anyhow::Result<()> {
    let (mut retried, mut unreadable, mut named) = (0, 0, which.jobs.clone());
    for queue in which.filters.queues() {
        let (letters, rest): (Vec<_>, Vec<_>) = dead_letters(jobs, queue, filter)
            .await?
            .into_iter()
            .partition(|letter| letter.envelope.is_some());
        unreadable += rest.len();
        named.retain(|id| !letters.iter().any(|letter| letter.job() == Some(*id)));
        if which.dry_run {
            list_letters(queue, &letters)?;
            retried += letters.len();
        } else {
            retried += jobs.replay(queue, &letters).await?;
        }
    }
    let would = if which.dry_run { "would" } else { "will" };
    if !which.jobs.is_empty() {
        return retry_named(jobs, which, &named, retried).await;
    }
    if unreadable > 0 {
        eprintln!(
            "{} cannot be parsed or retried; delete with `worker jobs delete`",
            count(unreadable, "dead letter")
        );
    }
    Ok(say(&format!("{} {would} be retried", count(retried, "job")))?)
}

/// Retries the jobs given by id that are not dead letters.
async fn retry_named(
    jobs: &Jobs,
    which: &Which,
    named: &[JobId],
    mut retried: usize,
) -> anyhow::Result<()> {
    let mut refused = 0;
    for id in named {
        match jobs.find(*id).await? {
            Some(job) if job.status.state() == JobState::Delayed => {
                if which.dry_run {
                    say(&summary(&job))?;
                    retried += 1;
                } else {
                    retried += jobs.run_now(job.queue, &[*id]).await?;
                }
            }
            Some(job) if job.details().is_none() => {
                eprintln!(
                    "{id} cannot be parsed and cannot be retried; delete it with `worker jobs delete`"
                );
                refused += 1;
            }
            Some(job) => {
                eprintln!(
                    "{id} is {}; only dead and delayed jobs can be retried",
                    job.status.state()
                );
                refused += 1;
            }
            None => {
                eprintln!(
                    "{id} was not found: it has ended, was cancelled or deleted, or never existed"
                );
                refused += 1;
            }
        }
    }
    let would = if which.dry_run { "would" } else { "will" };
    say(&format!("{} {would} be retried", count(retried, "job")))?;
    anyhow::ensure!(refused == 0, "{refused} of the given jobs could not be retried");
    Ok(())
}

async fn retry_delayed(jobs: &Jobs, which: &Which, filter: &JobFilter) -> anyhow::Result<()> {
    let mut moved = 0;
    for queue in which.filters.queues() {
        let mut pages = Pages::new(jobs, queue, JobState::Delayed, filter);
        while let Some(page) = pages.next(PAGE_MAX).await? {
            if which.dry_run {
                page.iter().try_for_each(|job| say(&summary(job)))?;
                moved += page.len();
            } else {
                let ids: Vec<JobId> = page.iter().filter_map(|job| job.id).collect();
                moved += jobs.run_now(queue, &ids).await?;
            }
        }
    }
    let would = if which.dry_run { "would" } else { "will" };
    Ok(say(&format!("{} {would} run now", count(moved, "job")))?)
}

/// Results of cancelling jobs.
#[derive(Default)]
struct Tally {
    removed: usize,
    stop_requested: usize,
    unknown: usize,
}

impl Tally {
    fn add(&mut self, results: &[Cancelled]) {
        let of = |wanted| results.iter().filter(|result| **result == wanted).count();
        self.removed += of(Cancelled::Removed);
        self.stop_requested += of(Cancelled::StopRequested);
        self.unknown += of(Cancelled::Unknown);
    }
}

async fn cancel(jobs: &Jobs, which: &Which, states: &[JobState]) -> anyhow::Result<()> {
    let filter = which.filter(states)?;
    if states.contains(&JobState::Dead) {
        return Err(UsageError(
            "dead letters cannot be cancelled; delete them with `worker jobs delete`",
        )
        .into());
    }
    if !which.jobs.is_empty() {
        return cancel_named(jobs, which).await;
    }
    let states = if states.is_empty() { &WAITING } else { states };
    let (mut tally, mut meant) = (Tally::default(), 0);
    for queue in which.filters.queues() {
        for state in states {
            let mut pages = Pages::new(jobs, queue, *state, &filter);
            while let Some(page) = pages.next(PAGE_MAX).await? {
                meant += page.len();
                if which.dry_run {
                    page.iter().try_for_each(|job| say(&summary(job)))?;
                } else {
                    let ids: Vec<JobId> = page.iter().filter_map(|job| job.id).collect();
                    tally.add(&jobs.cancel(queue, &ids).await?);
                }
            }
        }
    }
    report_cancelled(which, &tally, meant)
}

async fn cancel_named(jobs: &Jobs, which: &Which) -> anyhow::Result<()> {
    let (mut tally, mut meant) = (Tally::default(), 0);
    for id in &which.jobs {
        match jobs.find(*id).await? {
            Some(job) if job.status.state() != JobState::Dead => {
                meant += 1;
                if which.dry_run {
                    say(&summary(&job))?;
                } else {
                    tally.add(&jobs.cancel(job.queue, &[*id]).await?);
                }
            }
            Some(_) => eprintln!("{id} is a dead letter; delete it with `worker jobs delete`"),
            None => {
                eprintln!(
                    "{id} was not found: it has ended, was cancelled or deleted, or never existed"
                );
            }
        }
    }
    report_cancelled(which, &tally, meant)?;
    let refused = which.jobs.len() - meant;
    anyhow::ensure!(refused == 0, "{refused} of the given jobs could not be cancelled");
    Ok(())
}

fn report_cancelled(which: &Which, tally: &Tally, meant: usize) -> anyhow::Result<()> {
    if which.dry_run {
        return Ok(say(&format!("{} would be cancelled", count(meant, "job")))?);
    }
    say(&format!(
        "{} will not run; {} asked to stop",
        count(tally.removed, "job"),
        count(tally.stop_requested, "running job")
    ))?;
    if tally.unknown > 0 {
        say(&format!("{} had already ended", count(tally.unknown, "job")))?;
    }
    Ok(())
}

async fn delete(jobs: &Jobs, which: &Which) -> anyhow::Result<()> {
    let filter = which.filter(&[])?;
    let (mut deleted, mut named) = (0, which.jobs.clone());
    for queue in which.filters.queues() {
        let letters = dead_letters(jobs, queue, &filter).await?;
        named.retain(|id| !letters.iter().any(|letter| letter.job() == Some(*id)));
        if which.dry_run {
            list_letters(queue, &letters)?;
            deleted += letters.len();
        } else {
            deleted += jobs.delete_dead(queue, &letters).await?;
        }
    }
    let would_be = if which.dry_run { " would be" } else { "" };
    say(&format!("{}{would_be} deleted", count(deleted, "dead letter")))?;
    for id in &named {
        eprintln!(
            "{id} is not a dead letter; see `worker jobs show`, or cancel it with `worker jobs cancel`"
        );
    }
    anyhow::ensure!(named.is_empty(), "{} of the given jobs are not dead letters", named.len());
    Ok(())
}
