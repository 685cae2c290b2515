//! What `cargo xtask bench jobs` and its contestants say to each other.
//!
//! A contestant is a program of its own that lives for the whole run, so that what its runtime has
//! compiled and cached stays warm. On standard input it is given one [`Task`] a line, on standard
//! output it gives one [`Answer`] a line; the first says that it is ready. It ends when its
//! standard input does. Contestants in other languages follow the same words.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, Write},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// What to do. Redis is empty before each, and the contestant leaves no worker behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Task {
    /// Push jobs one a call, and answer how many a second.
    PushSingle {
        /// How many.
        jobs: u32,
        /// Calls that are not answered yet, at most.
        in_flight: u32,
    },
    /// Push jobs many a call, and answer how many a second.
    PushBatch {
        /// How many.
        jobs: u32,
    },
    /// Push jobs, then start a worker, and answer how many a second it did, from the first start
    /// until Redis shows that the last is done.
    Drain {
        /// How many.
        jobs: u32,
        /// Jobs that may run at once.
        concurrency: usize,
    },
    /// As [`Task::Drain`], the jobs belonging to many tenants in turn.
    DrainTenants {
        /// How many.
        jobs: u32,
        /// Jobs that may run at once.
        concurrency: usize,
        /// Tenants.
        tenants: u32,
    },
    /// As [`Task::Drain`], each job staged in a transaction of its own.
    DrainStaged {
        /// How many.
        jobs: u32,
        /// Jobs that may run at once.
        concurrency: usize,
        /// Transactions at once.
        in_flight: u32,
    },
    /// Push jobs at an even rate while a worker has nothing else to do, and answer how long it took
    /// from the call of each push to the start of its job.
    Latency(Pace),
    /// As [`Task::Latency`], for one tenant while another's jobs, each of which takes 5 ms, wait in
    /// great number.
    LatencyBesideFlood {
        /// How the one tenant's jobs are pushed.
        pace: Pace,
        /// How many of the other's wait.
        flood: u32,
    },
    /// As [`Task::Latency`], each job staged in a transaction of its own; from the commit's return.
    LatencyStaged(Pace),
}

/// How jobs are pushed to measure a latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Jobs that count.
    pub samples: u32,
    /// Jobs before them that do not.
    pub warm_up: u32,
    /// Milliseconds between two pushes.
    pub interval_ms: u64,
    /// Jobs that may run at once.
    pub concurrency: usize,
}

/// Numbers by name.
pub type Values = BTreeMap<String, f64>;

/// What a contestant says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It waits for its first task; the versions of what it is made of.
    Ready(String),
    /// What it measured.
    Values(Values),
    /// The task was not done.
    Error(String),
}

/// Jobs a second.
pub const PER_SECOND: &str = "per_second";
/// The median of a latency, in milliseconds.
pub const P50_MS: &str = "p50_ms";
/// What 99 of 100 latencies do not exceed, in milliseconds.
pub const P99_MS: &str = "p99_ms";

/// Does what it is told until standard input ends.
///
/// # Errors
/// When it cannot read or be heard.
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

/// So many `jobs` in `time`, as an answer.
pub fn rate(jobs: u32, time: Duration) -> Values {
    [(PER_SECOND.to_owned(), f64::from(jobs) / time.as_secs_f64())].into()
}

/// `waits` as an answer.
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
