//! When each job started.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::Outcome;

/// The longest time that any measurement waits.
pub(crate) const DEADLINE: Duration = Duration::from_mins(4);

/// The first start of each job.
pub(crate) struct Starts {
    at: Vec<OnceLock<Instant>>,
    missing: AtomicUsize,
    all: Notify,
}

impl Starts {
    pub(crate) fn expecting(jobs: u32) -> Arc<Self> {
        let at: Vec<_> = (0..jobs).map(|_| OnceLock::new()).collect();
        Arc::new(Self { missing: AtomicUsize::new(at.len()), at, all: Notify::new() })
    }

    /// Records that job `n` has started.
    pub(crate) fn note(&self, n: u32) {
        let first = self.at.get(n as usize).is_some_and(|at| at.set(Instant::now()).is_ok());
        if first && self.missing.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.all.notify_one();
        }
    }

    /// Waits until every job has started.
    pub(crate) async fn all(&self) -> Outcome<()> {
        let left = || format!("{} jobs did not start", self.missing.load(Ordering::Relaxed));
        tokio::time::timeout(DEADLINE, self.all.notified()).await.map_err(|_| left().into())
    }

    /// When the first job started.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.at.iter().filter_map(OnceLock::get).min().copied()
    }

    /// How long each job waited since its own moment in `since`, by number.
    pub(crate) fn waits(&self, since: &[Instant]) -> Vec<Duration> {
        self.at
            .iter()
            .zip(since)
            .filter_map(|(at, since)| Some(at.get()?.saturating_duration_since(*since)))
            .collect()
    }
}
