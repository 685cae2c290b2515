//! The queue for the connections.
//!
//! Operations must not queue in the driver: its pool serves one waiting operation for each event,
//! such as the return of a connection, and an operation that was cancelled while it waited uses up
//! an event without causing another. After many are cancelled at once (an outage, clients that
//! disconnect), only the pool's timer is left, and those that wait behind them are held up by half
//! a second for each. So no more operations are passed to the driver than it may have connections,
//! and it may open all of them at the same time.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::FutureExt;
use mongodb::{error::Result, options::ClientOptions};
use tokio::sync::Semaphore;

/// The queue of one client. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Semaphore,
    answers: AtomicU64,
}

impl Turns {
    /// For a client with `connections` at most.
    pub(super) fn limiting(options: &mut ClientOptions, connections: u32) -> Self {
        options.max_pool_size = Some(connections);
        options.max_connecting = Some(connections);
        let free = Semaphore::new(connections as usize);
        Self(Arc::new(Inner { free, answers: AtomicU64::new(0) }))
    }

    /// Runs an operation when its turn comes. Not an `async fn`, which would store the operation
    /// twice.
    pub(super) fn take<T, F: Future<Output = Result<T>>>(
        &self,
        operation: F,
    ) -> impl Future<Output = Result<T>> {
        self.0.free.acquire().then(move |turn| {
            // The turn ends after the operation was dropped, and so has returned its connection.
            operation.inspect(move |result| {
                if result.is_ok() {
                    self.0.answers.fetch_add(1, Ordering::Relaxed);
                }
                drop(turn);
            })
        })
    }

    /// How many operations have succeeded so far.
    pub(super) fn answers(&self) -> u64 {
        self.0.answers.load(Ordering::Relaxed)
    }
}
