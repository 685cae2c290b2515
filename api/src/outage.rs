//! Whether the database is away, watched from the side.
//!
//! A request that needs the database must not wait for a timeout of its own to learn that it is
//! gone: one task asks every second, and while it gets no answer requests are refused at once,
//! those already waiting included. So an outage costs its callers little and ties up nothing.

use std::time::Duration;

use common::db::Store;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

/// How often the database is asked.
const PERIOD: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// It counts as away once it failed to answer this often in a row: one slow answer is no outage.
const FAILURES_MIN: u32 = 2;

/// Tells whether the database is away. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Outage(watch::Sender<bool>);

impl Outage {
    /// Nothing is known to be wrong yet.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Whether the database is away.
    pub(crate) fn is_on(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves once the database is away.
    pub(crate) async fn begins(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|away| *away).await;
    }

    /// Asks the database, for as long as the process runs.
    pub(crate) async fn watch(&self, store: &Store) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        loop {
            ticks.tick().await;
            match store.ping(PATIENCE).await {
                Ok(()) => {
                    failures = 0;
                    if self.0.send_replace(false) {
                        tracing::info!("database_back");
                    }
                }
                Err(error) => {
                    failures += 1;
                    if failures >= FAILURES_MIN && !self.0.send_replace(true) {
                        tracing::error!(%error, "database_away");
                    }
                }
            }
        }
    }
}
