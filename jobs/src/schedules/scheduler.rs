//! The scheduler, which stages the jobs of due ticks; every worker runs one.

use std::{collections::BTreeSet, convert::Infallible, time::Duration};

use common::{
    backoff::reconnect_delay,
    clock::between,
    db::{Change, DbError, PlatformScope, Txn},
    origin::Origin,
    telemetry::metrics,
};
use futures::future::join_all;
use mongodb::bson::{DateTime, doc};

use super::{Due, Schedule, ScheduleRow};
use crate::{Drain, Jobs};

/// Longest time between two checks, so that clock changes and sleeping machines are noticed.
const CHECK_INTERVAL_MAX: Duration = Duration::from_mins(1);

/// Stages the jobs of schedules in one process.
pub struct Scheduler {
    jobs: Jobs,
    followers: Vec<Follower>,
}

/// Follows one schedule. Schedules run independently, so that none delays another.
struct Follower {
    schedule: Schedule,
    /// Whether the schedule has a row with its current expression.
    begun: bool,
}

impl Scheduler {
    /// A scheduler for `schedules`, which enqueues through `jobs`.
    ///
    /// # Panics
    /// If two schedules have the same name: one would swallow the other's ticks.
    pub fn new(jobs: Jobs, schedules: Vec<Schedule>) -> Self {
        let mut names = BTreeSet::new();
        for schedule in &schedules {
            assert!(names.insert(schedule.name), "two schedules are named {}", schedule.name);
            show_at_zero(schedule);
        }
        Self {
            jobs,
            followers: schedules
                .into_iter()
                .map(|schedule| Follower { schedule, begun: false })
                .collect(),
        }
    }

    /// Runs until the shutdown begins.
    pub async fn run(mut self, drain: Drain) {
        let followers = self.followers.iter_mut().map(|follower| follower.run(&self.jobs));
        tokio::select! {
            _ = join_all(followers) => {}
            // Committed ticks are in the outbox; others are handled by another worker.
            () = drain.begun() => {}
        }
    }

    /// Stages what is due and not yet staged by any worker. An error affects only its own schedule.
    pub async fn check(&mut self) -> Result<(), DbError> {
        join_all(self.followers.iter_mut().map(|follower| follower.check(&self.jobs)))
            .await
            .into_iter()
            .collect()
    }
}

impl Follower {
    async fn run(&mut self, jobs: &Jobs) -> Infallible {
        let mut failures = 0;
        loop {
            let pause = match self.check(jobs).await {
                Ok(()) => {
                    failures = 0;
                    self.until_next(jobs.store().clock().now())
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(schedule = self.schedule.name, %error, failures, "schedule_check_failed");
                    reconnect_delay(failures)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn check(&mut self, jobs: &Jobs) -> Result<(), DbError> {
        let (store, schedule) = (jobs.store(), &self.schedule);
        if !self.begun {
            ScheduleRow::begin(store, schedule).await?;
            self.begun = true;
        }
        // Reading is cheaper than a transaction, and usually another worker was first.
        let row = ScheduleRow::of(store, schedule).await?;
        if row.is_none_or(|row| schedule.due(row.settled_until, store.clock().now()).is_none()) {
            return Ok(());
        }
        if let Some(due) = jobs.commit(&Origin::system(), &Tick { schedule }).await? {
            show(schedule, &due, store.clock().now());
        }
        Ok(())
    }

    /// Time until something is due, or until the next regular check.
    fn until_next(&self, now: DateTime) -> Duration {
        self.schedule
            .cron
            .next_after(now)
            .map_or(CHECK_INTERVAL_MAX, |next| between(now, next))
            .min(CHECK_INTERVAL_MAX)
    }
}

/// Stages the jobs of due ticks and records them; returns what was due.
struct Tick<'a> {
    schedule: &'a Schedule,
}

impl Change for Tick<'_> {
    type Output = Option<Due>;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<Due>, DbError> {
        let (name, now) = (self.schedule.name, txn.clock().now());
        let row = txn.records::<ScheduleRow>(PlatformScope).find(doc! { "_id": name }).await?;
        let Some(due) = row.and_then(|row| self.schedule.due(row.settled_until, now)) else {
            return Ok(None);
        };
        let mut noted = doc! { "settled_until": due.newest };
        if let Some(last) = due.run.last() {
            noted.insert("last_tick", *last);
        }
        // If two workers read the same row, the second is rejected here and reads again. The same
        // happens while MongoDB keeps the transaction of a worker that was killed before it could
        // commit: a minute or two.
        txn.records::<ScheduleRow>(PlatformScope)
            .update(doc! { "_id": name }, doc! { "$set": noted })
            .await?;
        for tick in &due.run {
            (self.schedule.stage)(txn, *tick).await?;
        }
        Ok(Some(due))
    }
}

fn show(schedule: &Schedule, due: &Due, now: DateTime) {
    let (name, run) = (schedule.name, due.run.len() as u64);
    tracing::debug!(schedule = name, run, "schedule_ticked");
    if due.missed > 0 {
        tracing::warn!(schedule = name, missed = due.missed, run, "schedule_missed_ticks");
    }
    metrics::JOBS_TICKS.with_label_values(&[name, "run"]).inc_by(run);
    metrics::JOBS_TICKS.with_label_values(&[name, "missed"]).inc_by(due.missed);
    for tick in &due.run {
        metrics::JOBS_TICK_LAG
            .with_label_values(&[name])
            .observe(between(*tick, now).as_secs_f64());
    }
}

/// Creates the counters at zero: a counter that first appears with its first event shows no
/// increase.
fn show_at_zero(schedule: &Schedule) {
    for outcome in ["run", "missed"] {
        metrics::JOBS_TICKS.with_label_values(&[schedule.name, outcome]).inc_by(0);
    }
}
