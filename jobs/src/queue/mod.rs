//! The queues: our `apalis` backend on Redis Streams.
//!
//! [`Broker`] is Redis, one method an operation. [`QueueBackend`] is one process' part in one
//! queue; a few small tasks share its `consumer`: `fetch` reads, `deliver` gives slots, `settle`
//! writes down what became of jobs, `lease` keeps the leases of those at work alive, `recover`
//! takes over from the dead, `promote` moves what is due, and `listen` hears what other processes
//! say.

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
