//! What makes schedules tick: every worker runs one.

use std::{collections::BTreeSet, convert::Infallible, time::Duration};

use common::{
    backoff::reconnect_delay,
    clock::between,
    db::{Change, DbError, PlatformScope, Txn},
    telemetry::metrics,
};
use futures::future::join_all;
use mongodb::bson::{DateTime, doc};

use super::{Due, Schedule, ScheduleRow};
use crate::{Drain, Jobs};

/// The longest time between two looks, so that a clock that is set, or a machine that slept, is
/// noticed.
const LOOK_MAX: Duration = Duration::from_mins(1);

/// One process' part in making schedules tick.
pub struct Clockwork {
    jobs: Jobs,
    hands: Vec<Hand>,
}

/// What follows one schedule. Each goes by itself, so that none holds up another.
struct Hand {
    schedule: Schedule,
    /// Whether the schedule has a row, with its present expression.
    begun: bool,
}

impl Clockwork {
    /// A clockwork of `schedules`, whose jobs `jobs` hands over.
    ///
    /// # Panics
    /// When two schedules have the same name: one would swallow the other's ticks.
    pub fn new(jobs: Jobs, schedules: Vec<Schedule>) -> Self {
        let mut names = BTreeSet::new();
        for schedule in &schedules {
            assert!(names.insert(schedule.name), "two schedules are called {}", schedule.name);
            show_at_zero(schedule);
        }
        Self {
            jobs,
            hands: schedules.into_iter().map(|schedule| Hand { schedule, begun: false }).collect(),
        }
    }

    /// Runs until the drain begins.
    pub async fn run(mut self, drain: Drain) {
        let hands = self.hands.iter_mut().map(|hand| hand.run(&self.jobs));
        tokio::select! {
            _ = join_all(hands) => {}
            // What a look had committed is in the outbox; what it had not, another worker does.
            () = drain.begun() => {}
        }
    }

    /// Stages what is due now and not staged yet, by anyone.
    ///
    /// # Errors
    /// A failure of the store; it holds up its own schedule only.
    pub async fn look(&mut self) -> Result<(), DbError> {
        join_all(self.hands.iter_mut().map(|hand| hand.look(&self.jobs)))
            .await
            .into_iter()
            .collect()
    }
}

impl Hand {
    async fn run(&mut self, jobs: &Jobs) -> Infallible {
        let mut failures = 0;
        loop {
            let pause = match self.look(jobs).await {
                Ok(()) => {
                    failures = 0;
                    self.until_next(jobs.store().clock().now())
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(schedule = self.schedule.name, %error, failures, "schedule_not_looked_at");
                    reconnect_delay(failures)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn look(&mut self, jobs: &Jobs) -> Result<(), DbError> {
        let (store, schedule) = (jobs.store(), &self.schedule);
        if !self.begun {
            ScheduleRow::begin(store, schedule).await?;
            self.begun = true;
        }
        // A look is cheaper than a transaction, and mostly another worker was first.
        let row = ScheduleRow::of(store, schedule).await?;
        if row.is_none_or(|row| schedule.due(row.settled_until, store.clock().now()).is_none()) {
            return Ok(());
        }
        if let Some(due) = jobs.commit(&Tick { schedule }).await? {
            show(schedule, &due, store.clock().now());
        }
        Ok(())
    }

    /// How long until something is due, or until it is time to look in any case.
    fn until_next(&self, now: DateTime) -> Duration {
        self.schedule.cron.next_after(now).map_or(LOOK_MAX, |next| between(now, next)).min(LOOK_MAX)
    }
}

/// Stages the jobs of the ticks that are due, and notes that it did; answers what was due.
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
        // Of two workers that read the same row, the second is refused here and reads again. So it
        // is for as long as MongoDB keeps the transaction of one that was killed before it could
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

/// A counter that first appears with its first event shows no rise.
fn show_at_zero(schedule: &Schedule) {
    for outcome in ["run", "missed"] {
        metrics::JOBS_TICKS.with_label_values(&[schedule.name, outcome]).inc_by(0);
    }
}
