//! The canary: a job every minute that shows that scheduled jobs still run.

use jobs::{Job, Queue};
use serde::{Deserialize, Serialize};

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
