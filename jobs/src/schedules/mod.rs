//! Schedules: jobs that come of themselves, once a tick of a cron expression, whichever of the
//! workers gets there first.
//!
//! There is no leader. Every worker computes the ticks; at one, a transaction notes it in the
//! schedule's row and stages its job, so that both happen, once, or neither. Whoever comes second
//! finds the tick noted. A row is only ever moved forward, so workers whose clocks differ do not
//! double a tick either: the one that is ahead decides when it comes.
//!
//! A schedule begins when a worker first sees it: ticks before that are none of its business. So
//! it is when its expression changes; while two releases run, the ticks of both expressions
//! count. One that is renamed is a new one. The row of one that was removed stays and does
//! nothing; when it comes back, what passed in between counts as missed.

mod clockwork;
mod cron;
mod row;
use std::{fmt, num::NonZeroU16, time::Duration};

use common::{
    clock::later,
    db::{DbError, Txn},
    id::JobId,
};
use futures::future::BoxFuture;
use mongodb::bson::DateTime;

pub use clockwork::Clockwork;
pub use cron::{Cron, InvalidCron};
pub use row::ScheduleRow;

pub(crate) use row::VALIDATOR;

use crate::{Job, stage};

/// A tick that is noticed later than this is missed. Long enough for an election of MongoDB's
/// primary, the restart of the only worker, and until MongoDB gives up the transaction of a worker
/// that was killed in it (60 s, and it looks every 30).
const LATE_MAX: Duration = Duration::from_mins(2);
/// Due ticks looked at in one go, newest first; those before are missed without being counted.
const DUE_MAX: usize = 1_000;

/// What becomes of ticks that nobody noticed in time, because no worker ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Nothing: a job runs within two minutes of its tick or never.
    Skip,
    /// However many are due, there is one run, that of the newest.
    Once,
    /// Each is made up for, oldest first, up to this many of the newest; of 1 000 at most.
    All(NonZeroU16),
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skip => f.write_str("skip"),
            Self::Once => f.write_str("once"),
            Self::All(max) => write!(f, "all, at most {max}"),
        }
    }
}

/// Stages the job of a tick.
type StageTick =
    dyn for<'t> Fn(&'t mut Txn, DateTime) -> BoxFuture<'t, Result<JobId, DbError>> + Send + Sync;

/// A job that comes of itself.
pub struct Schedule {
    name: &'static str,
    cron: Cron,
    missed: Missed,
    stage: Box<StageTick>,
}

/// The ticks that are due, and what becomes of them.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    /// Their jobs run, oldest first.
    run: Vec<DateTime>,
    /// How many were missed for good.
    missed: u64,
    /// The newest of all.
    newest: DateTime,
}

impl Schedule {
    /// A schedule that stages `job(tick)` at every tick of `cron`. Its `name` is for good, like a
    /// job's kind: under another it is another schedule. It may be a metric's label.
    ///
    /// # Errors
    /// When `cron` is no cron expression, or its time never comes.
    pub fn new<J: Job>(
        name: &'static str,
        cron: &str,
        missed: Missed,
        job: impl Fn(DateTime) -> J + Send + Sync + 'static,
    ) -> Result<Self, InvalidCron> {
        let stage: Box<StageTick> = Box::new(move |txn, tick| {
            let job = job(tick);
            Box::pin(async move { stage(txn, None, &job).await })
        });
        Ok(Self { name, cron: cron.parse()?, missed, stage })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// When it ticks.
    pub fn cron(&self) -> &Cron {
        &self.cron
    }

    /// What becomes of ticks that nobody noticed in time.
    pub fn missed(&self) -> Missed {
        self.missed
    }

    /// The ticks after `settled` that are due at `now`; none when there are none.
    fn due(&self, settled: DateTime, now: DateTime) -> Option<Due> {
        let ticks: Vec<DateTime> = self.cron.ticks_back(now, settled).take(DUE_MAX).collect();
        let newest = *ticks.first()?;
        let runs = match self.missed {
            Missed::Skip => ticks.iter().take_while(|tick| later(**tick, LATE_MAX) >= now).count(),
            Missed::Once => 1,
            Missed::All(max) => ticks.len().min(max.get().into()),
        };
        Some(Due {
            run: ticks[..runs].iter().rev().copied().collect(),
            missed: (ticks.len() - runs) as u64,
            newest,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::Queue;

    #[derive(Debug, Serialize, Deserialize)]
    struct Chore {
        tick_ms: i64,
    }

    impl Job for Chore {
        const KIND: &'static str = "test.chore";
        const QUEUE: Queue = Queue::Maintenance;
    }

    /// In milliseconds.
    const HOUR: i64 = 3_600_000;

    fn hourly(missed: Missed) -> Schedule {
        Schedule::new("test.hourly", "0 * * * *", missed, |tick| Chore {
            tick_ms: tick.timestamp_millis(),
        })
        .unwrap()
    }

    /// The hours that run and how many are missed, when `settled` is dealt with and it is `now`.
    fn due(missed: Missed, settled: i64, now: DateTime) -> (Vec<i64>, u64) {
        let due = hourly(missed).due(DateTime::from_millis(settled * HOUR), now);
        due.map_or((Vec::new(), 0), |due| {
            (due.run.iter().map(|tick| tick.timestamp_millis() / HOUR).collect(), due.missed)
        })
    }

    fn hour(hour: i64) -> DateTime {
        DateTime::from_millis(hour * HOUR)
    }

    const THREE: Missed = Missed::All(NonZeroU16::new(3).unwrap());

    #[test]
    fn a_tick_in_time_runs_whatever_the_policy() {
        for missed in [Missed::Skip, Missed::Once, THREE] {
            assert_eq!(due(missed, 7, hour(8)), (vec![8], 0));
            assert_eq!(due(missed, 8, hour(8)), (vec![], 0));
            assert_eq!(due(missed, 9, hour(8)), (vec![], 0), "a clock that is behind does nothing");
        }
    }

    #[test]
    fn of_missed_ticks_run_none_or_one_or_some() {
        let half_past_eight = later(hour(8), Duration::from_mins(30));
        assert_eq!(due(Missed::Skip, 2, half_past_eight), (vec![], 6));
        assert_eq!(due(Missed::Once, 2, half_past_eight), (vec![8], 5));
        assert_eq!(due(THREE, 2, half_past_eight), (vec![6, 7, 8], 3));
        assert_eq!(due(THREE, 7, half_past_eight), (vec![8], 0));
    }

    #[test]
    fn skipping_ends_with_lateness() {
        let at = |late| later(hour(8), late);
        assert_eq!(due(Missed::Skip, 2, at(LATE_MAX)), (vec![8], 5));
        assert_eq!(due(Missed::Skip, 2, at(LATE_MAX + Duration::from_millis(1))), (vec![], 6));
    }

    #[test]
    fn a_long_absence_costs_bounded_work() {
        let all = Missed::All(NonZeroU16::MAX);
        let (run, missed) = due(all, 0, hour(500_000));
        assert_eq!((run.len(), run.last(), missed), (DUE_MAX, Some(&500_000), 0));
    }
}
