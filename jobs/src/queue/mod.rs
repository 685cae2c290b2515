//! The queues: an `apalis` backend on Redis Streams.
//!
//! [`Broker`] wraps Redis, with one method per operation. [`QueueBackend`] is one process in one
//! queue. A few small tasks share its `consumer`: `fetch` reads jobs, `deliver` assigns slots,
//! `settle` records results, `lease` renews the leases of running jobs, `recover` takes over jobs
//! of dead workers, `promote` moves due jobs to the stream, and `listen` receives messages from
//! other processes.

mod ahead;
mod backend;
mod broker;
mod cancel;
mod consumer;
mod dead_letter;
mod deliver;
mod entry;
mod fetch;
mod finish;
mod group;
mod health;
mod lease;
mod listen;
mod pause;
mod permits;
mod promote;
mod recover;
mod settle;
mod stats;

pub use backend::QueueBackend;
pub use broker::{Broker, ConsumerStats, Place, QueueStats};
pub use consumer::Delivery;
pub use dead_letter::DeadLetter;
pub use finish::Verdict;
pub use pause::Pause;
pub use permits::Permits;

pub(crate) use broker::{Cancelled, Found, HandIn, PlaceCursor, Push, Spot, entry_millis};
