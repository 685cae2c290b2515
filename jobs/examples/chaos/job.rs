//! What is run under faults, and the two ledgers: what was accepted, and what was done.

use common::{
    db::{PlatformOwned, Record},
    id::JobId,
};
use jobs::{Job, Queue};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    /// Notes its effect at once.
    Quick,
    /// Notes its effect after a while.
    Slow,
    /// Fails twice before that.
    Flaky,
    /// Panics once before that.
    Panicky,
    /// Ends its process, always.
    Abort,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) n: u64,
    pub(crate) act: Act,
}

impl Job for Work {
    const KIND: &'static str = "chaos.work";
    const QUEUE: Queue = Queue::Email;
}

/// A kind that no worker knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Strange {
    pub(crate) n: u64,
}

impl Job for Strange {
    const KIND: &'static str = "chaos.strange";
    const QUEUE: Queue = Queue::Email;
}

/// A job that was accepted: for a staged one this row is in its transaction, for an enqueued one it
/// is written after Redis has said yes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Accepted {
    #[serde(rename = "_id")]
    pub(crate) job: JobId,
    pub(crate) staged: bool,
    /// Whether it is to end in the dead letters.
    pub(crate) doomed: bool,
    pub(crate) at: DateTime,
}

impl Record for Accepted {
    const COLLECTION: &'static str = "chaos_accepted";
}
impl PlatformOwned for Accepted {}

/// What a job did: one row a job, however often it ran.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Effect {
    #[serde(rename = "_id")]
    pub(crate) job: JobId,
    /// How often it ran to its end.
    pub(crate) runs: i64,
    /// When it first did.
    pub(crate) at: DateTime,
}

impl Record for Effect {
    const COLLECTION: &'static str = "chaos_effects";
}
impl PlatformOwned for Effect {}
