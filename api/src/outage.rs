//! Detects that the database is unavailable.
//!
//! One task pings the database every second. While nothing is answered, requests that need the
//! database are refused at once, including those that already wait for it, instead of running into
//! a timeout each. An outage therefore occupies no resources.

use std::time::Duration;

use common::db::Store;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

/// Time between two pings.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a ping may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// The database counts as unavailable after this many failed pings in a row.
const FAILURES_MIN: u32 = 2;

/// Whether the database is unavailable. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Outage(watch::Sender<bool>);

impl Outage {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn is_on(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves once the database is unavailable.
    pub(crate) async fn begins(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|away| *away).await;
    }

    /// Pings the database for as long as the process runs.
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
                        tracing::info!("database_outage_ended");
                    }
                }
                Err(error) => {
                    failures += 1;
                    if failures >= FAILURES_MIN && !self.0.send_replace(true) {
                        tracing::error!(%error, "database_outage_started");
                    }
                }
            }
        }
    }
}
