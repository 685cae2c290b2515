//! The measurements, and their numbers of jobs.

use std::fmt;

use clap::ValueEnum;
use testkit::contest::{P50_MS, P99_MS, PER_SECOND, Pace, Task, Values};

use super::peers::Contestant;
use crate::figures;

/// Memory of a queued job in bytes, without its payload.
pub(super) const PER_JOB: &str = "bytes_a_job";

/// Jobs pushed one per call.
const SINGLES: u32 = 5_000;
/// Queued jobs when memory is measured.
const MEMORY_JOBS: u32 = 100_000;
const BACKLOG_SMALL: u32 = 1_000;
const BACKLOG_LARGE: u32 = 1_000_000;
const TENANTS: u32 = 100;
/// Backlog of one tenant while the latency of another one is measured.
const FLOOD: u32 = 100_000;
/// Number of concurrent transactions, each with one job.
const STAGING: u32 = 50;
const STAGED_JOBS: u32 = 2_000;
/// Slots, where their number is not what is measured.
const CONCURRENCY: usize = 50;
const PACE: Pace = Pace { samples: 500, warm_up: 50, interval_ms: 10, concurrency: CONCURRENCY };

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Measure {
    /// Push one job per call, one call after the other
    Push,
    /// Push one job per call, 64 calls in flight
    Push64,
    /// Push many jobs per call
    PushBatch,
    /// Drain jobs that do nothing, one at a time
    Drain1,
    /// Drain jobs that do nothing, 10 at a time
    Drain10,
    /// Drain jobs that do nothing, 50 at a time
    Drain50,
    /// Drain jobs that do nothing, 200 at a time
    Drain200,
    /// Drain jobs of 100 tenants
    DrainTenants,
    /// Drain jobs that were staged in transactions
    DrainStaged,
    /// Drain a backlog of 1 000
    Backlog1k,
    /// Drain a backlog of 1 000 000
    Backlog1m,
    /// From the call that enqueues a job to its start, on an idle system
    Latency,
    /// From the call that enqueues a job to its start, while another tenant has a backlog of 100
    /// 000
    LatencyFlood,
    /// From the commit to the start of a staged job, on an idle system
    LatencyStaged,
    /// Memory of a queued job in Redis in bytes, without its payload
    Memory,
}

/// A value of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Figure {
    /// Its name in the report.
    pub(super) name: &'static str,
    /// Its name in the answers of contestants.
    pub(super) value: &'static str,
    pub(super) unit: Unit,
}

/// The unit of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    JobsPerSecond,
    Milliseconds,
    Bytes,
}

impl Unit {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::JobsPerSecond => "jobs/s",
            Self::Milliseconds => "ms",
            Self::Bytes => "bytes",
        }
    }

    /// Whether higher values are better.
    pub(super) const fn more_is_better(self) -> bool {
        matches!(self, Self::JobsPerSecond)
    }
}

/// What a contestant does for a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    Do(Task),
    /// Nothing, for this reason.
    Leave(&'static str),
}

impl Measure {
    /// The tasks that warm up a contestant.
    pub(super) const WARM_UP: Self = Self::Drain50;

    /// All measurements, in the order of the report.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied()
    }

    /// What `who` does.
    pub(super) fn plan(self, who: Contestant) -> Plan {
        use Contestant::Ours;
        let jobs = who.drained_jobs();
        let drain = |jobs, concurrency| Plan::Do(Task::Drain { jobs, concurrency });
        match self {
            Self::Push => Plan::Do(Task::PushSingle { jobs: SINGLES, in_flight: 1 }),
            Self::Push64 => Plan::Do(Task::PushSingle { jobs: SINGLES, in_flight: 64 }),
            Self::PushBatch => Plan::Do(Task::PushBatch { jobs: who.pushed_jobs() }),
            Self::Drain1 => drain(who.drained_singly_jobs(), 1),
            Self::Drain10 => drain(jobs, 10),
            Self::Drain50 => drain(jobs, 50),
            Self::Drain200 => drain(jobs, 200),
            Self::Backlog1k => drain(BACKLOG_SMALL, CONCURRENCY),
            Self::Backlog1m => match who.cannot_hold_large() {
                Some(reason) => Plan::Leave(reason),
                None => drain(BACKLOG_LARGE, CONCURRENCY),
            },
            Self::DrainTenants if who == Ours => {
                Plan::Do(Task::DrainTenants { jobs, concurrency: CONCURRENCY, tenants: TENANTS })
            }
            Self::DrainStaged if who == Ours => Plan::Do(Task::DrainStaged {
                jobs: STAGED_JOBS,
                concurrency: CONCURRENCY,
                in_flight: STAGING,
            }),
            Self::LatencyFlood if who == Ours => {
                Plan::Do(Task::LatencyBesideFlood { pace: PACE, flood: FLOOD })
            }
            Self::LatencyStaged if who == Ours => Plan::Do(Task::LatencyStaged(PACE)),
            Self::DrainTenants | Self::LatencyFlood => Plan::Leave("it has no tenants"),
            Self::DrainStaged | Self::LatencyStaged => Plan::Leave("it has no outbox"),
            Self::Latency => Plan::Do(Task::Latency(PACE)),
            Self::Memory => Plan::Do(Task::PushBatch { jobs: MEMORY_JOBS }),
        }
    }

    /// The values that it produces.
    pub(super) fn figures(self) -> Vec<Figure> {
        let rate = |name| vec![Figure { name, value: PER_SECOND, unit: Unit::JobsPerSecond }];
        let latency = |p50, p99| {
            let of = |name, value| Figure { name, value, unit: Unit::Milliseconds };
            vec![of(p50, P50_MS), of(p99, P99_MS)]
        };
        match self {
            Self::Push => rate("push, 1 in flight"),
            Self::Push64 => rate("push, 64 in flight"),
            Self::PushBatch => rate("push, batches"),
            Self::Drain1 => rate("drain, concurrency 1"),
            Self::Drain10 => rate("drain, concurrency 10"),
            Self::Drain50 => rate("drain, concurrency 50"),
            Self::Drain200 => rate("drain, concurrency 200"),
            Self::DrainTenants => rate("drain, 100 tenants"),
            Self::DrainStaged => rate("drain, staged jobs"),
            Self::Backlog1k => rate("drain, backlog 1 000"),
            Self::Backlog1m => rate("drain, backlog 1 000 000"),
            Self::Latency => latency("start latency, idle, p50", "start latency, idle, p99"),
            Self::LatencyFlood => latency(
                "start latency during another tenant's flood, p50",
                "start latency during another tenant's flood, p99",
            ),
            Self::LatencyStaged => {
                latency("start latency, staged, p50", "start latency, staged, p99")
            }
            Self::Memory => {
                vec![Figure { name: "memory per queued job", value: PER_JOB, unit: Unit::Bytes }]
            }
        }
    }

    /// `values` as shown during the measurement.
    pub(super) fn shown(self, values: &Values) -> String {
        let figures = self.figures();
        let shown = figures
            .iter()
            .filter_map(|figure| values.get(figure.value))
            .map(|value| figures::number(*value));
        let unit = figures.first().map_or("", |figure| figure.unit.name());
        format!("{} {unit}", shown.collect::<Vec<_>>().join("/"))
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Total size of the payloads of `jobs` jobs in bytes: `{"n":0}` and so on.
pub(super) fn payload_bytes(jobs: u32) -> f64 {
    (0..jobs).map(|n| f64::from(n.checked_ilog10().unwrap_or_default() + 1) + 6.0).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_counted_as_they_are_written() {
        let written: usize = (0..1_234).map(|n| format!(r#"{{"n":{n}}}"#).len()).sum();
        assert!((payload_bytes(1_234) - f64::from(u32::try_from(written).unwrap())).abs() < 0.5);
    }

    #[test]
    fn value_names_are_unique() {
        let mut names: Vec<&str> =
            Measure::all().flat_map(Measure::figures).map(|figure| figure.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn our_engine_takes_part_in_every_measurement() {
        for measure in Measure::all() {
            assert!(matches!(measure.plan(Contestant::Ours), Plan::Do(_)), "{measure}");
        }
    }
}
