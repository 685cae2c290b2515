//! The jobs that run under faults, and two ledgers: which jobs were accepted, and which were done.

use common::{
    db::{Data, Record},
    id::JobId,
};
use jobs::{Job, Queue, QueueDeclaration, QueueSettings};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

/// The queue of the job.
pub(crate) const EMAIL: Queue =
    Queue::new(&QueueDeclaration { name: "email", defaults: QueueSettings::DEFAULT });

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    /// Records its effect at once.
    Quick,
    /// Records its effect after a while.
    Slow,
    /// Fails twice first.
    Flaky,
    /// Panics once first.
    Panicky,
    /// Always ends its process.
    Abort,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) n: u64,
    pub(crate) act: Act,
}

impl Job for Work {
    const KIND: &'static str = "chaos.work";
    const QUEUE: Queue = EMAIL;
}

/// A job of a kind that no worker knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Strange {
    pub(crate) n: u64,
}

impl Job for Strange {
    const KIND: &'static str = "chaos.strange";
    const QUEUE: Queue = EMAIL;
}

/// An accepted job. For a staged job, the row is part of its transaction; for an enqueued one, it
/// is written after Redis has accepted the job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Accepted {
    #[serde(rename = "_id")]
    pub(crate) job: JobId,
    pub(crate) staged: bool,
    /// Whether it must end as a dead letter.
    pub(crate) doomed: bool,
    pub(crate) at: DateTime,
}

impl Record for Accepted {
    const COLLECTION: &'static str = "chaos_accepted";
    const DATA: Data = Data::of_platform();
}

/// The effect of a job: one row per job, however often it ran.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Effect {
    #[serde(rename = "_id")]
    pub(crate) job: JobId,
    /// How often it ran to completion.
    pub(crate) runs: i64,
    /// When it first did.
    pub(crate) at: DateTime,
}

impl Record for Effect {
    const COLLECTION: &'static str = "chaos_effects";
    const DATA: Data = Data::of_platform();
}
