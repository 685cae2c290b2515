//! `worker jobs`: which jobs are where, and what is to become of them.

use anyhow::Context;
use clap::{Args, Subcommand, builder::RangedU64ValueParser};
use common::{
    clock::Clock,
    config::Period,
    id::{JobId, TenantId},
};
use jobs::{
    Cancelled, Cursor, JobFilter, JobState, JobView, Jobs, PAGE_MAX, Queue,
    progress::{Progress, ProgressError},
    queue::DeadLetter,
};

use super::{
    Unclear,
    arguments::queue,
    history::{self, EntryView, HistoryQuery},
    say,
    text::{Shown, ago, pretty_json, summary, summary_json, whole},
};

/// The states in which a job still waits.
const WAITING: [JobState; 4] =
    [JobState::Staged, JobState::Held, JobState::Delayed, JobState::Ready];

/// Jobs listed at most.
const LIST_MAX: u64 = 1_000;

/// What to do with jobs.
#[derive(Subcommand)]
pub(crate) enum JobsCommand {
    /// List jobs; dead letters, newest first, where no state is named.
    List {
        #[command(flatten)]
        filters: Filters,
        /// In this state: staged, held, delayed, ready, running or dead. May be given more than
        /// once.
        #[arg(long, default_value = "dead")]
        state: Vec<JobState>,
        /// This many at most.
        #[arg(long, default_value_t = 50, value_parser = RangedU64ValueParser::<usize>::new().range(1..=LIST_MAX))]
        limit: usize,
        /// A JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// List what became of jobs that have ended, newest first, as far as `jobs.history_ttl` has it
    /// kept.
    History(HistoryQuery),
    /// Show one job, wherever it is, with everything that went wrong and how far it is, or what
    /// became of it.
    Show {
        /// The job.
        job: JobId,
        /// As a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Give dead letters another try, from their first attempt on, and let delayed jobs run now.
    Retry {
        #[command(flatten)]
        which: Which,
        /// Which ones the filters mean: dead (the default) or delayed. Jobs that are named may be
        /// either.
        #[arg(long)]
        state: Option<JobState>,
    },
    /// Cancel jobs: what waits will not run, what runs is stopped where it is.
    Cancel {
        #[command(flatten)]
        which: Which,
        /// Which ones the filters mean: staged, held, delayed, ready or running; without it all but
        /// those that run. May be given more than once.
        #[arg(long)]
        state: Vec<JobState>,
    },
    /// Delete dead letters for good.
    Delete {
        #[command(flatten)]
        which: Which,
    },
}

/// What jobs have in common; everything given must hold.
#[derive(Args)]
pub(crate) struct Filters {
    /// Of this queue; of every queue without.
    #[arg(long, value_parser = queue())]
    queue: Option<Queue>,
    /// Of this kind, such as `registration.send_verification`.
    #[arg(long)]
    kind: Option<String>,
    /// Of this tenant.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Whose last error contains this.
    #[arg(long)]
    error: Option<String>,
    /// Enqueued longer ago than this, or for dead letters: died longer ago; such as 30m, 24h or 7d.
    #[arg(long)]
    older_than: Option<Period>,
}

/// Which jobs a command is for.
#[derive(Args)]
pub(crate) struct Which {
    /// These jobs.
    jobs: Vec<JobId>,
    #[command(flatten)]
    filters: Filters,
    /// All of them, where nothing narrows them down.
    #[arg(long)]
    all: bool,
    /// Only tell which.
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

    /// Whether they leave out anything.
    fn narrow(&self) -> bool {
        self.queue.is_some()
            || self.kind.is_some()
            || self.tenant.is_some()
            || self.error.is_some()
            || self.older_than.is_some()
    }

    fn queues(&self) -> Vec<Queue> {
        self.queue.map_or_else(|| Queue::ALL.to_vec(), |queue| vec![queue])
    }
}

impl Which {
    /// The filter, if the command, with `states` that it asks for, says which jobs it means.
    fn filter(&self, states: &[JobState]) -> Result<JobFilter, Unclear> {
        let filters = self.all || self.filters.narrow();
        match (self.jobs.is_empty(), filters) {
            // A job that is left out by a filter would be told of as if it were not there.
            (false, true) => {
                Err(Unclear("name jobs by their ids or say what they have in common, not both"))
            }
            (false, false) if !states.is_empty() => Err(Unclear(
                "jobs that are named are meant whatever their state; leave --state out",
            )),
            (true, false) => Err(Unclear(
                "say which: jobs by their ids, --queue, --kind, --tenant, --error, --older-than, or --all",
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

/// The pages of a listing, one after the other.
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

/// How far a job is. What another release wrote hides nothing else of the job.
async fn progress(jobs: &Jobs, id: JobId) -> anyhow::Result<Option<Progress>> {
    match jobs.progress(id).await {
        Err(error @ ProgressError::Json(_)) => {
            eprintln!("{error}");
            Ok(None)
        }
        found => Ok(found?),
    }
}

/// Shows what became of a job that is nowhere any more.
async fn show_ended(jobs: &Jobs, id: JobId, as_json: bool) -> anyhow::Result<()> {
    let found = history::find(jobs, id).await?;
    let entry = found.with_context(|| {
        format!("{id} is not known: it has ended, was cancelled or deleted, or never was")
    })?;
    if as_json {
        return Ok(say(&pretty_json(&EntryView::of(&entry))?)?);
    }
    Ok(history::whole(&entry).iter().try_for_each(|line| say(line))?)
}

/// Dead letters of one queue that are meant.
async fn dead_letters(
    jobs: &Jobs,
    queue: Queue,
    filter: &JobFilter,
) -> anyhow::Result<Vec<DeadLetter>> {
    // Their number is bounded by `jobs.dead_max`.
    Ok(jobs.dead_letters(queue, filter, usize::MAX).await?)
}

fn tell(queue: Queue, letters: &[DeadLetter]) -> anyhow::Result<()> {
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
        _ => Err(Unclear(
            "only dead and delayed jobs can be tried again; the others are on their way",
        )
        .into()),
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
            tell(queue, &letters)?;
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
            "{unreadable} cannot be read and stay dead letters; `worker jobs delete` deletes them"
        );
    }
    Ok(say(&format!("{retried} {would} be tried again"))?)
}

/// The rest of the jobs that were named: those that are not dead letters.
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
                    "{id} cannot be read, so that it cannot be tried again; `worker jobs delete` deletes it"
                );
                refused += 1;
            }
            Some(job) => {
                eprintln!("{id} is {} and needs no retry", job.status.state());
                refused += 1;
            }
            None => {
                eprintln!(
                    "{id} is not known: it has ended, was cancelled or deleted, or never was"
                );
                refused += 1;
            }
        }
    }
    say(&format!("{retried} {} be tried again", if which.dry_run { "would" } else { "will" }))?;
    anyhow::ensure!(refused == 0, "{refused} of those named could not be tried again");
    Ok(())
}

async fn retry_delayed(jobs: &Jobs, which: &Which, filter: &JobFilter) -> anyhow::Result<()> {
    let mut hastened = 0;
    for queue in which.filters.queues() {
        let mut pages = Pages::new(jobs, queue, JobState::Delayed, filter);
        while let Some(page) = pages.next(PAGE_MAX).await? {
            if which.dry_run {
                page.iter().try_for_each(|job| say(&summary(job)))?;
                hastened += page.len();
            } else {
                let ids: Vec<JobId> = page.iter().filter_map(|job| job.id).collect();
                hastened += jobs.run_now(queue, &ids).await?;
            }
        }
    }
    Ok(say(&format!("{hastened} {} now", if which.dry_run { "would run" } else { "run" }))?)
}

/// What became of jobs that were to be cancelled.
#[derive(Default)]
struct Tally {
    removed: usize,
    stop_requested: usize,
    unknown: usize,
}

impl Tally {
    fn add(&mut self, became: &[Cancelled]) {
        let count = |wanted| became.iter().filter(|became| **became == wanted).count();
        self.removed += count(Cancelled::Removed);
        self.stop_requested += count(Cancelled::StopRequested);
        self.unknown += count(Cancelled::Unknown);
    }
}

async fn cancel(jobs: &Jobs, which: &Which, states: &[JobState]) -> anyhow::Result<()> {
    let filter = which.filter(states)?;
    if states.contains(&JobState::Dead) {
        return Err(Unclear("dead letters do not run; `worker jobs delete` deletes them").into());
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
    tell_cancelled(which, &tally, meant)
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
            Some(_) => eprintln!("{id} is a dead letter; `worker jobs delete` deletes it"),
            None => {
                eprintln!(
                    "{id} is not known: it has ended, was cancelled or deleted, or never was"
                );
            }
        }
    }
    tell_cancelled(which, &tally, meant)?;
    let refused = which.jobs.len() - meant;
    anyhow::ensure!(refused == 0, "{refused} of those named could not be cancelled");
    Ok(())
}

fn tell_cancelled(which: &Which, tally: &Tally, meant: usize) -> anyhow::Result<()> {
    if which.dry_run {
        return Ok(say(&format!("{meant} would be cancelled"))?);
    }
    say(&format!(
        "{} will not run; {} run and were asked to stop",
        tally.removed, tally.stop_requested
    ))?;
    if tally.unknown > 0 {
        say(&format!("{} ended before they were cancelled", tally.unknown))?;
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
            tell(queue, &letters)?;
            deleted += letters.len();
        } else {
            deleted += jobs.delete_dead(queue, &letters).await?;
        }
    }
    say(&format!("{deleted} {} deleted", if which.dry_run { "would be" } else { "are" }))?;
    for id in &named {
        eprintln!(
            "{id} is not among the dead letters; `worker jobs show` tells where it is, `worker jobs cancel` cancels it"
        );
    }
    anyhow::ensure!(named.is_empty(), "{} of those named are not dead letters", named.len());
    Ok(())
}
