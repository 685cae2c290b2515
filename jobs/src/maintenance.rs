//! Jobs of the installation's own upkeep.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Job, Queue, Unique, Window};

/// Shows that scheduled jobs still run: goes the whole way from a tick over the outbox and Redis
/// to a worker, and leaves word there of when it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The tick it is of, milliseconds since the epoch.
    pub tick_ms: i64,
}

impl Job for Canary {
    const KIND: &'static str = "maintenance.canary";
    const QUEUE: Queue = Queue::Maintenance;
}

/// Removes what is over and nobody needs any more (`common::purge`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purge {}

impl Job for Purge {
    const KIND: &'static str = "maintenance.purge";
    const QUEUE: Queue = Queue::Maintenance;
    /// Backlogs are long when it was away for long; what is left is for the next attempt.
    const TIMEOUT: Duration = Duration::from_mins(10);

    /// One that takes longer than to the next tick is not joined by another.
    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: String::new(), window: Window::UntilFinished })
    }
}
