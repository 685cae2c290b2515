//! Stopping without losing anything: first no new work, then, after a grace period, no old work.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Tells every part of a worker process how far it is with stopping. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    stop: CancellationToken,
    give_up: CancellationToken,
}

impl Drain {
    /// A process that is not stopping.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing new is begun from now on; after `grace` what still runs is given back.
    pub fn begin(&self, grace: Duration) {
        self.stop.cancel();
        let give_up = self.give_up.clone();
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            give_up.cancel();
        });
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Resolves once it has begun.
    pub async fn begun(&self) {
        self.stop.cancelled().await;
    }

    /// Resolves once the grace period is over.
    pub async fn over(&self) {
        self.give_up.cancelled().await;
    }
}
