//! Retrying, running, cancelling and deleting jobs. What is about to happen to which jobs is recorded
//! first, with the operator and their reason.

use common::{
    cli::{self, List, Output},
    id::JobId,
    origin::Reason,
};
use domain::platform::job_control::JobControl;
use jobs::{
    Cancelled, JobFilter, JobState, JobStatus, JobView, PAGE_MAX, Queue, queue::DeadLetter,
};
use serde::Serialize;

use super::{
    Desk, UsageError,
    jobs::{Pages, Which},
    text::{count, summary, summary_json, time},
};

/// The states of a job that has not started.
const WAITING: [JobState; 4] =
    [JobState::Staged, JobState::Held, JobState::Delayed, JobState::Ready];

/// A command that changes jobs, or with `--dry-run` lists them.
struct Action<'a> {
    desk: &'a Desk<'a>,
    control: JobControl,
    reason: Option<Reason>,
    /// The list of `--dry-run`.
    listed: Option<List>,
}

impl<'a> Action<'a> {
    fn new(desk: &'a Desk<'a>, control: JobControl, dry_run: bool, reason: Option<Reason>) -> Self {
        Self { desk, control, reason, listed: dry_run.then(|| desk.output.list(None)) }
    }

    /// Whether to go on with `jobs` of `queue`: they are recorded, or only listed.
    async fn goes_on(&mut self, queue: Queue, jobs: &[JobView]) -> anyhow::Result<bool> {
        if let Some(listed) = &mut self.listed {
            for job in jobs {
                listed.row(&summary_json(job)?, &summary(job))?;
            }
            return Ok(false);
        }
        if !jobs.is_empty() {
            self.desk.record(self.control, queue, &ids(jobs), self.reason.as_ref()).await?;
        }
        Ok(!jobs.is_empty())
    }

    /// Reports the result, and fails if some of the given jobs were refused. That matters more than
    /// whether somebody read the report.
    fn report(
        &self,
        object: &impl Serialize,
        message: &str,
        refused: usize,
        what: &str,
    ) -> anyhow::Result<()> {
        let told = if self.listed.is_some() && self.desk.output == Output::Json {
            // The list is the result, and has no other objects.
            cli::note(message);
            Ok(())
        } else {
            self.desk.output.show(object, [message])
        };
        anyhow::ensure!(refused == 0, "{refused} of the given jobs {what}");
        Ok(told?)
    }

    /// "will" or, if nothing is done, "would".
    const fn will(&self) -> &'static str {
        if self.listed.is_some() { "would" } else { "will" }
    }
}

fn ids(jobs: &[JobView]) -> Vec<JobId> {
    jobs.iter().filter_map(|job| job.id).collect()
}

/// Explains why a job was refused.
fn refuse(id: JobId, why: &str) -> usize {
    cli::note(&format!("{id} {why}"));
    1
}

const NOT_FOUND: &str = "was not found: it has ended, was cancelled or deleted, or never existed";

/// Jobs that were retried, and those that were not.
#[derive(Default, Serialize)]
struct RetryOutcome {
    retried: usize,
    /// Delayed jobs that have not failed.
    left_alone: usize,
    /// Dead letters that cannot be parsed.
    unreadable: usize,
    /// Jobs given by id that cannot be retried.
    refused: usize,
}

pub(super) async fn retry(
    desk: &Desk<'_>,
    which: &Which,
    state: Option<JobState>,
    reason: Option<Reason>,
) -> anyhow::Result<()> {
    let filter = which.filter(desk, state.as_slice()).await?;
    let mut action = Action::new(desk, JobControl::Retry, which.dry_run, reason);
    let retried = match state.unwrap_or(JobState::Dead) {
        JobState::Dead => retry_dead(&mut action, which, &filter).await?,
        JobState::Delayed => retry_delayed(&mut action, which, &filter).await?,
        _ => return Err(UsageError::new("only dead and delayed jobs can be retried").into()),
    };
    let matches = retried.retried + retried.left_alone + retried.unreadable;
    desk.check_kind(filter.kind.as_deref(), matches)?;
    desk.check_tenant(filter.tenant, matches).await?;
    if retried.unreadable > 0 {
        cli::note(&format!(
            "{} cannot be parsed or retried; delete with `worker jobs delete`",
            count(retried.unreadable, "dead letter")
        ));
    }
    if retried.left_alone > 0 {
        let (alone, were) =
            (retried.left_alone, if retried.left_alone == 1 { "was" } else { "were" });
        cli::note(&format!(
            "{} {were} left alone; see `worker jobs run-now`",
            count(alone, "scheduled job")
        ));
    }
    let message = format!("{} {} be retried", count(retried.retried, "job"), action.will());
    action.report(&retried, &message, retried.refused, "could not be retried")
}

async fn retry_dead(
    action: &mut Action<'_>,
    which: &Which,
    filter: &JobFilter,
) -> anyhow::Result<RetryOutcome> {
    let (mut result, mut named) = (RetryOutcome::default(), which.jobs.clone());
    for queue in which.filters.queues() {
        let (letters, rest): (Vec<_>, Vec<_>) = dead_letters(action.desk, queue, filter)
            .await?
            .into_iter()
            .partition(|letter| letter.envelope.is_some());
        result.unreadable += rest.len();
        named.retain(|id| !letters.iter().any(|letter| letter.job() == Some(*id)));
        result.retried += if action.goes_on(queue, &views(queue, &letters)).await? {
            action.desk.jobs.replay(queue, &letters).await?
        } else {
            letters.len()
        };
    }
    for id in named {
        retry_named(action, id, &mut result).await?;
    }
    Ok(result)
}

/// Retries a job given by id that is not a dead letter.
async fn retry_named(
    action: &mut Action<'_>,
    id: JobId,
    result: &mut RetryOutcome,
) -> anyhow::Result<()> {
    let Some(job) = action.desk.jobs.find(id).await? else {
        result.refused += refuse(id, NOT_FOUND);
        return Ok(());
    };
    result.refused += match job.status {
        _ if job.details().is_none() => refuse(
            id,
            "cannot be parsed and cannot be retried; delete it with `worker jobs delete`",
        ),
        JobStatus::Delayed { .. } if job.has_failed() => {
            result.retried += start(action, job).await?;
            0
        }
        JobStatus::Delayed { until } => {
            let due = time(until);
            let why = format!(
                "is scheduled for {due} and has not failed; `worker jobs run-now {id}` runs it early"
            );
            refuse(id, &why)
        }
        _ => {
            let state = job.status.state();
            refuse(id, &format!("is {state}; only dead and delayed jobs can be retried"))
        }
    };
    Ok(())
}

/// Starts a delayed job; returns how many there were, which is none if it has just started.
async fn start(action: &mut Action<'_>, job: JobView) -> anyhow::Result<usize> {
    let (queue, jobs) = (job.queue, [job]);
    if action.goes_on(queue, &jobs).await? {
        Ok(action.desk.jobs.run_now(queue, &ids(&jobs)).await?)
    } else {
        Ok(1)
    }
}

async fn retry_delayed(
    action: &mut Action<'_>,
    which: &Which,
    filter: &JobFilter,
) -> anyhow::Result<RetryOutcome> {
    let mut result = RetryOutcome::default();
    for queue in which.filters.queues() {
        let mut pages = Pages::new(&action.desk.jobs, queue, JobState::Delayed, filter);
        while let Some(page) = pages.next(PAGE_MAX).await? {
            let (failed, scheduled): (Vec<_>, Vec<_>) =
                page.into_iter().partition(JobView::has_failed);
            result.left_alone += scheduled.len();
            result.retried += if action.goes_on(queue, &failed).await? {
                action.desk.jobs.run_now(queue, &ids(&failed)).await?
            } else {
                failed.len()
            };
        }
    }
    Ok(result)
}

/// Jobs that were made to run, and those that were not.
#[derive(Default, Serialize)]
struct Ran {
    run_now: usize,
    /// Jobs that are not delayed.
    refused: usize,
}

pub(super) async fn run_now(
    desk: &Desk<'_>,
    jobs: &[JobId],
    dry_run: bool,
    reason: Option<Reason>,
) -> anyhow::Result<()> {
    let mut action = Action::new(desk, JobControl::RunNow, dry_run, reason);
    let mut result = Ran::default();
    for id in jobs {
        match desk.jobs.find(*id).await? {
            Some(job) if job.status.state() == JobState::Delayed => {
                result.run_now += start(&mut action, job).await?;
            }
            Some(job) => {
                let state = job.status.state();
                let why = format!("is {state}; only delayed jobs can be run now");
                result.refused += refuse(*id, &why);
            }
            None => result.refused += refuse(*id, NOT_FOUND),
        }
    }
    let message = format!("{} {} run now", count(result.run_now, "job"), action.will());
    action.report(&result, &message, result.refused, "could not be run now")
}

/// Results of cancelling jobs.
#[derive(Default, Serialize)]
struct Tally {
    /// Jobs that will not run.
    removed: usize,
    /// Running jobs that were asked to stop.
    stop_requested: usize,
    /// Jobs that had ended.
    ended: usize,
    /// Jobs given by id that cannot be cancelled.
    refused: usize,
    /// Jobs that were selected.
    #[serde(skip)]
    selected: usize,
}

impl Tally {
    fn add(&mut self, results: &[Cancelled]) {
        let of = |wanted| results.iter().filter(|result| **result == wanted).count();
        self.removed += of(Cancelled::Removed);
        self.stop_requested += of(Cancelled::StopRequested);
        self.ended += of(Cancelled::Unknown);
    }
}

pub(super) async fn cancel(
    desk: &Desk<'_>,
    which: &Which,
    states: &[JobState],
    reason: Option<Reason>,
) -> anyhow::Result<()> {
    let filter = which.filter(desk, states).await?;
    if states.contains(&JobState::Dead) {
        return Err(UsageError::new(
            "dead letters cannot be cancelled; delete them with `worker jobs delete`",
        )
        .into());
    }
    let mut action = Action::new(desk, JobControl::Cancel, which.dry_run, reason);
    let tally = if which.jobs.is_empty() {
        let states = if states.is_empty() { &WAITING } else { states };
        cancel_matching(&mut action, which, states, &filter).await?
    } else {
        cancel_named(&mut action, &which.jobs).await?
    };
    desk.check_kind(filter.kind.as_deref(), tally.selected)?;
    desk.check_tenant(filter.tenant, tally.selected).await?;
    if tally.ended > 0 {
        cli::note(&format!("{} had already ended", count(tally.ended, "job")));
    }
    let message = if which.dry_run {
        format!("{} would be cancelled", count(tally.selected, "job"))
    } else {
        let (removed, running) =
            (count(tally.removed, "job"), count(tally.stop_requested, "running job"));
        format!("{removed} will not run; asked {running} to stop")
    };
    action.report(&tally, &message, tally.refused, "could not be cancelled")
}

async fn cancel_matching(
    action: &mut Action<'_>,
    which: &Which,
    states: &[JobState],
    filter: &JobFilter,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for queue in which.filters.queues() {
        for state in states {
            let mut pages = Pages::new(&action.desk.jobs, queue, *state, filter);
            while let Some(page) = pages.next(PAGE_MAX).await? {
                stop(action, queue, &page, &mut tally).await?;
            }
        }
    }
    Ok(tally)
}

async fn cancel_named(action: &mut Action<'_>, jobs: &[JobId]) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for id in jobs {
        match action.desk.jobs.find(*id).await? {
            Some(job) if job.status.state() != JobState::Dead => {
                stop(action, job.queue, &[job], &mut tally).await?;
            }
            Some(_) => {
                let why = "is a dead letter; delete it with `worker jobs delete`";
                tally.refused += refuse(*id, why);
            }
            None => tally.refused += refuse(*id, NOT_FOUND),
        }
    }
    Ok(tally)
}

/// Cancels jobs of a queue.
async fn stop(
    action: &mut Action<'_>,
    queue: Queue,
    jobs: &[JobView],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    tally.selected += jobs.len();
    if action.goes_on(queue, jobs).await? {
        tally.add(&action.desk.jobs.cancel(queue, &ids(jobs)).await?);
    }
    Ok(())
}

/// Dead letters that were deleted, and jobs that are none.
#[derive(Default, Serialize)]
struct Deleted {
    deleted: usize,
    /// Jobs given by id that are not dead letters.
    refused: usize,
}

pub(super) async fn delete(
    desk: &Desk<'_>,
    which: &Which,
    reason: Option<Reason>,
) -> anyhow::Result<()> {
    let filter = which.filter(desk, &[]).await?;
    let mut action = Action::new(desk, JobControl::Delete, which.dry_run, reason);
    let (mut deleted, mut named) = (0, which.jobs.clone());
    for queue in which.filters.queues() {
        let letters = dead_letters(desk, queue, &filter).await?;
        named.retain(|id| !letters.iter().any(|letter| letter.job() == Some(*id)));
        deleted += if action.goes_on(queue, &views(queue, &letters)).await? {
            desk.jobs.delete_dead(queue, &letters).await?
        } else {
            letters.len()
        };
    }
    desk.check_kind(filter.kind.as_deref(), deleted)?;
    desk.check_tenant(filter.tenant, deleted).await?;
    let why =
        "is not a dead letter; see `worker jobs show`, or cancel it with `worker jobs cancel`";
    let refused = named.iter().map(|id| refuse(*id, why)).sum();
    let result = Deleted { deleted, refused };
    let would_be = if which.dry_run { " would be" } else { "" };
    let message = format!("{}{would_be} deleted", count(deleted, "dead letter"));
    action.report(&result, &message, refused, "could not be deleted")
}

/// The selected dead letters of one queue.
async fn dead_letters(
    desk: &Desk<'_>,
    queue: Queue,
    filter: &JobFilter,
) -> anyhow::Result<Vec<DeadLetter>> {
    // `jobs.dead_max` bounds their number.
    Ok(desk.jobs.dead_letters(queue, filter, usize::MAX).await?)
}

fn views(queue: Queue, letters: &[DeadLetter]) -> Vec<JobView> {
    letters.iter().map(|letter| letter.view(queue)).collect()
}
