//! The queues: our `apalis` backend on Redis Streams.
//!
//! [`Broker`] is Redis, one method an operation. [`QueueBackend`] is one process' part in one
//! queue; a few small tasks share its `consumer`: `fetch` reads, `settle` writes down what
//! became of jobs, `lease` keeps the leases of those at work alive, `recover` takes over from the dead, and
//! `promote` moves what is due.

mod backend;
mod broker;
mod connections;
mod consumer;
mod dead_letter;
mod fetch;
mod finish;
mod keys;
mod lease;
mod promote;
mod recover;
mod settle;
mod stats;

pub use backend::QueueBackend;
pub use broker::{Broker, QueueStats};
pub use consumer::Delivery;
pub use dead_letter::DeadLetter;

pub(crate) use broker::Push;
pub use finish::Verdict;
