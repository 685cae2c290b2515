//! The job engine.
//!
//! A job is a plain struct that implements [`Job`]. [`stage`] writes it into the outbox in the
//! transaction of the change that causes it; [`Jobs::commit`] commits and enqueues it in Redis at
//! once; a relay in every worker enqueues jobs that this fast path missed. Workers run jobs through
//! [`queue`], our `apalis` backend on Redis Streams. The crate's README explains how the parts work
//! together and what each guarantees.

#![warn(missing_docs)]

pub mod batches;
mod control;
mod dead_letters;
mod drain;
mod envelope;
mod handover;
pub mod history;
mod inspect;
mod job;
pub mod outbox;
pub mod progress;
pub mod queue;
mod registry;
mod relay;
mod report;
pub mod schedules;
pub mod testing;
mod unique;

pub use control::{Cancelled, ControlError};
pub use drain::Drain;
pub use envelope::{Envelope, Failure, PAYLOAD_BYTES_MAX};
pub use handover::{EnqueueError, Jobs};
pub use inspect::{
    Content, Cursor, Details, JobFilter, JobState, JobStatus, JobView, PAGE_MAX, Page, Paused,
    QueueDetails, QueueView, UnknownState,
};
pub use job::{BoxError, Job, JobError, Queue, UnknownQueue};
pub use outbox::{stage, stage_at};
pub use registry::{Dispatch, Registry, Running};
pub use relay::Relay;
pub use report::{RESULT_BYTES_MAX, ResultError, Step};
pub use unique::{Unique, Window};

use common::db::{Migration, Plan};

/// The migrations of this crate's collections; they share their numbering with
/// `domain::migrations`.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 8, name: "outbox", plan: Plan::Indexes(outbox::INDEXES) },
    Migration {
        version: 9,
        name: "outbox validator",
        plan: Plan::Validators(&[outbox::VALIDATOR]),
    },
    Migration {
        version: 10,
        name: "queue pauses",
        plan: Plan::Validators(&[queue::PAUSE_VALIDATOR]),
    },
    Migration { version: 11, name: "job batches", plan: Plan::Indexes(batches::INDEXES) },
    Migration {
        version: 12,
        name: "job batches validator",
        plan: Plan::Validators(&[batches::VALIDATOR]),
    },
    Migration { version: 13, name: "job history", plan: Plan::Indexes(history::INDEXES) },
    Migration {
        version: 14,
        name: "job history validator",
        plan: Plan::Validators(&[history::VALIDATOR]),
    },
    Migration { version: 15, name: "schedules", plan: Plan::Validators(&[schedules::VALIDATOR]) },
    Migration { version: 16, name: "outbox by queue", plan: Plan::Indexes(outbox::QUEUE_INDEXES) },
    Migration {
        version: 17,
        name: "job batches by completion",
        plan: Plan::Indexes(batches::LIST_INDEXES),
    },
];
