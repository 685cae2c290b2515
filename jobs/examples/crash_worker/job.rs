//! The jobs of `crash_worker` and the rows it leaves behind, shared with the tests that kill it.

use common::{
    db::{Data, Record},
    id::JobId,
};
use jobs::{Job, Queue, QueueDeclaration, QueueSettings};
use serde::{Deserialize, Serialize};

/// The queue of the job.
pub(crate) const EMAIL: Queue =
    Queue::new(&QueueDeclaration { name: "email", defaults: QueueSettings::DEFAULT });

/// The effect of an attempt. One row per job, however often it ran.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Effect {
    #[serde(rename = "_id")]
    pub(crate) job: JobId,
    pub(crate) n: u32,
    pub(crate) process: u32,
}

impl Record for Effect {
    const COLLECTION: &'static str = "effects";
    const DATA: Data = Data::of_platform();
}

/// What a job does.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    Probe,
    Abort,
    Hang,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Crash {
    pub(crate) n: u32,
    pub(crate) act: Act,
}

impl Job for Crash {
    const KIND: &'static str = "test.crash";
    const QUEUE: Queue = EMAIL;
}
