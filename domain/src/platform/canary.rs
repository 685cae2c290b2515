//! The canary: a job every minute which shows that scheduled jobs still run.

use crate::queues;
use jobs::{Job, Queue};
use serde::{Deserialize, Serialize};

/// Shows that scheduled jobs still run: it passes from a tick through the outbox and Redis to a
/// worker, which records when it ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The tick that staged it, in milliseconds since the epoch.
    pub tick_ms: i64,
}

impl Job for Canary {
    const KIND: &'static str = "maintenance.canary";
    const QUEUE: Queue = queues::MAINTENANCE;
}
