//! Schedules: jobs that are staged once per tick of a cron expression, by whichever worker is
//! first.
//!
//! There is no leader. Every worker computes the ticks; at a tick, a transaction records it in the
//! schedule's row and stages its job, so that both happen exactly once or not at all. A worker that
//! comes second finds the tick recorded. Rows only ever move forward, so workers whose clocks
//! differ do not double a tick either: the fastest clock decides.
//!
//! A schedule begins when a worker first sees it; earlier ticks are ignored. The same holds when
//! its expression changes; while two releases run, the ticks of both expressions count. A renamed
//! schedule is a new one. The row of a removed schedule stays without effect; if the schedule
//! returns, the ticks in between count as missed.

mod cron;
mod row;
mod scheduler;
use std::{fmt, num::NonZeroU16, time::Duration};

use common::{
    clock::later,
    db::{DbError, Txn},
    id::JobId,
};
use futures::future::BoxFuture;
use mongodb::bson::DateTime;

pub use cron::{Cron, InvalidCron};
pub use row::ScheduleRow;
pub use scheduler::Scheduler;

use crate::{Job, stage};

/// A tick that is noticed later than this is missed. Long enough for the election of a MongoDB
/// primary, the restart of the only worker, and MongoDB's timeout for the transaction of a killed
/// worker (60 s, checked every 30 s).
const LATE_MAX: Duration = Duration::from_mins(2);
/// Due ticks examined at once, newest first; earlier ones are missed without being counted.
const DUE_MAX: usize = 1_000;

/// What happens to ticks that were missed because no worker ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// They are skipped: a job runs within two minutes of its tick or never.
    Skip,
    /// One job runs, for the newest of them.
    Once,
    /// A job runs for each, oldest first, limited to this many of the newest and to 1 000.
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

/// A job that is staged at regular times.
pub struct Schedule {
    name: &'static str,
    cron: Cron,
    missed: Missed,
    stage: Box<StageTick>,
}

/// The due ticks, and what happens to them.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    /// Ticks whose jobs run, oldest first.
    run: Vec<DateTime>,
    /// Number of ticks that were missed and will not run.
    missed: u64,
    /// The newest due tick.
    newest: DateTime,
}

impl Schedule {
    /// A schedule that stages `job(tick)` at every tick of `cron`. Its `name` is permanent, like a
    /// job's kind: with another name it is another schedule. The name is also a metric label. Fails
    /// if `cron` is not a cron expression or never matches.
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

    /// Name of the schedule.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The expression of its ticks.
    pub fn cron(&self) -> &Cron {
        &self.cron
    }

    /// What happens to missed ticks.
    pub fn missed(&self) -> Missed {
        self.missed
    }

    /// The ticks after `settled` that are due at `now`, if any.
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
    use crate::{Queue, test_queues::MAINTENANCE};

    #[derive(Debug, Serialize, Deserialize)]
    struct Chore {
        tick_ms: i64,
    }

    impl Job for Chore {
        const KIND: &'static str = "test.chore";
        const QUEUE: Queue = MAINTENANCE;
    }

    /// An hour in milliseconds.
    const HOUR: i64 = 3_600_000;

    fn hourly(missed: Missed) -> Schedule {
        Schedule::new("test.hourly", "0 * * * *", missed, |tick| Chore {
            tick_ms: tick.timestamp_millis(),
        })
        .unwrap()
    }

    /// The hours that run and the number missed, if `settled` was the last tick and it is `now`.
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
    fn a_punctual_tick_runs_under_every_policy() {
        for missed in [Missed::Skip, Missed::Once, THREE] {
            assert_eq!(due(missed, 7, hour(8)), (vec![8], 0));
            assert_eq!(due(missed, 8, hour(8)), (vec![], 0));
            assert_eq!(due(missed, 9, hour(8)), (vec![], 0), "a slow clock stages nothing");
        }
    }

    #[test]
    fn missed_ticks_run_according_to_the_policy() {
        let half_past_eight = later(hour(8), Duration::from_mins(30));
        assert_eq!(due(Missed::Skip, 2, half_past_eight), (vec![], 6));
        assert_eq!(due(Missed::Once, 2, half_past_eight), (vec![8], 5));
        assert_eq!(due(THREE, 2, half_past_eight), (vec![6, 7, 8], 3));
        assert_eq!(due(THREE, 7, half_past_eight), (vec![8], 0));
    }

    #[test]
    fn a_skipped_tick_is_one_beyond_the_late_limit() {
        let at = |late| later(hour(8), late);
        assert_eq!(due(Missed::Skip, 2, at(LATE_MAX)), (vec![8], 5));
        assert_eq!(due(Missed::Skip, 2, at(LATE_MAX + Duration::from_millis(1))), (vec![], 6));
    }

    #[test]
    fn a_long_outage_causes_bounded_work() {
        let all = Missed::All(NonZeroU16::MAX);
        let (run, missed) = due(all, 0, hour(500_000));
        assert_eq!((run.len(), run.last(), missed), (DUE_MAX, Some(&500_000), 0));
    }
}
