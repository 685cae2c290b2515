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
#[cfg(test)]
mod test_queues;
pub mod testing;
mod unique;

pub use common::config::{Queue, QueueDeclaration, QueueSettings};
pub use control::{Cancelled, ControlError};
pub use drain::Drain;
pub use envelope::{Envelope, Failure, PAYLOAD_BYTES_MAX};
pub use handover::{EnqueueError, Jobs};
pub use inspect::{
    Content, Cursor, Details, JobFilter, JobState, JobStatus, JobView, PAGE_MAX, Page, Paused,
    QueueDetails, QueueView, UnknownState,
};
pub use job::{BoxError, Job, JobError};
pub use outbox::{stage, stage_at};
pub use registry::{Dispatch, Registry, Running};
pub use relay::Relay;
pub use report::{RESULT_BYTES_MAX, ResultError, Step};
pub use unique::{Unique, Window};

use common::db::schema::Collection;

/// The collections of this crate.
pub const COLLECTIONS: &[Collection] = &[
    Collection::of::<batches::Batch>(),
    Collection::of::<history::HistoryEntry>(),
    Collection::of::<outbox::OutboxRow>(),
    Collection::of::<queue::Pause>(),
    Collection::of::<schedules::ScheduleRow>(),
];
