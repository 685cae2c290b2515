//! The protocol between `cargo xtask bench jobs` and its contestants.
//!
//! A contestant is a program that lives for the whole run, so that its runtime stays warm. It reads
//! one [`Task`] per line from standard input and writes one [`Answer`] per line to standard output;
//! the first answer says that it is ready. It exits at the end of standard input. Contestants in
//! other languages use the same protocol.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, Write},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A task. Redis is empty before each task, and the contestant leaves no worker behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Task {
    /// Push jobs with one job per call, and report jobs per second.
    PushSingle {
        /// Number of jobs.
        jobs: u32,
        /// Maximum number of calls in flight.
        in_flight: u32,
    },
    /// Push many jobs per call, and report jobs per second.
    PushBatch {
        /// Number of jobs.
        jobs: u32,
    },
    /// Push jobs, then start a worker, and report jobs per second, from the first start until Redis
    /// shows that the last job is done.
    Drain {
        /// Number of jobs.
        jobs: u32,
        /// Jobs that may run at once.
        concurrency: usize,
    },
    /// As [`Task::Drain`], with jobs of many tenants in turn.
    DrainTenants {
        /// Number of jobs.
        jobs: u32,
        /// Jobs that may run at once.
        concurrency: usize,
        /// Number of tenants.
        tenants: u32,
    },
    /// As [`Task::Drain`], with each job staged in its own transaction.
    DrainStaged {
        /// Number of jobs.
        jobs: u32,
        /// Jobs that may run at once.
        concurrency: usize,
        /// Transactions at once.
        in_flight: u32,
    },
    /// Push jobs at an even rate while the worker is otherwise idle, and report the time from the
    /// call of each push to the start of its job.
    Latency(Pace),
    /// As [`Task::Latency`], for one tenant, while another tenant has a large backlog of jobs that
    /// take 5 ms each.
    LatencyBesideFlood {
        /// How the jobs of the first tenant are pushed.
        pace: Pace,
        /// Number of jobs in the backlog of the other tenant.
        flood: u32,
    },
    /// As [`Task::Latency`], with each job staged in its own transaction; measured from the return
    /// of the commit.
    LatencyStaged(Pace),
}

/// How jobs are pushed to measure latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Number of jobs that are measured.
    pub samples: u32,
    /// Number of jobs before them that are not measured.
    pub warm_up: u32,
    /// Milliseconds between two pushes.
    pub interval_ms: u64,
    /// Jobs that may run at once.
    pub concurrency: usize,
}

/// Measured values by name.
pub type Values = BTreeMap<String, f64>;

/// An answer of a contestant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is ready for its first task; with the versions of its components.
    Ready(String),
    /// The measured values.
    Values(Values),
    /// The task failed.
    Error(String),
}

/// Jobs per second.
pub const PER_SECOND: &str = "per_second";
/// Median latency, in milliseconds.
pub const P50_MS: &str = "p50_ms";
/// 99th percentile of the latency, in milliseconds.
pub const P99_MS: &str = "p99_ms";

/// Performs tasks until the end of standard input. Fails if it cannot read or write.
pub async fn serve<E: Display>(
    versions: String,
    measure: impl AsyncFn(Task) -> Result<Values, E>,
) -> io::Result<()> {
    tell(&Answer::Ready(versions))?;
    while let Some(line) = next_line().await? {
        let answer = match serde_json::from_str(&line) {
            Ok(task) => measure(task)
                .await
                .map_or_else(|error| Answer::Error(error.to_string()), Answer::Values),
            Err(error) => Answer::Error(format!("the task cannot be read: {error}")),
        };
        tell(&answer)?;
    }
    Ok(())
}

async fn next_line() -> io::Result<Option<String>> {
    let reading = tokio::task::spawn_blocking(|| io::stdin().lines().next().transpose());
    reading.await.map_err(io::Error::other)?
}

fn tell(answer: &Answer) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{}", serde_json::to_string(answer)?)?;
    output.flush()
}

/// The rate of `jobs` in `time`, as an answer.
pub fn rate(jobs: u32, time: Duration) -> Values {
    [(PER_SECOND.to_owned(), f64::from(jobs) / time.as_secs_f64())].into()
}

/// The percentiles of `waits`, as an answer.
pub fn percentiles(mut waits: Vec<Duration>) -> Values {
    waits.sort_unstable();
    let at = |percent: usize| {
        waits
            .get((waits.len() * percent).div_ceil(100).saturating_sub(1))
            .copied()
            .unwrap_or_default()
    };
    [(P50_MS, at(50)), (P99_MS, at(99))]
        .map(|(name, wait)| (name.to_owned(), wait.as_secs_f64() * 1_000.0))
        .into()
}
