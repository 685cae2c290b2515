//! Stopping without losing anything: first no new work, then, after a grace period, no old work.

use std::{io, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
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

    /// Begins at SIGTERM (a deployment) or SIGINT (Ctrl-C).
    ///
    /// # Errors
    /// When the signals cannot be listened for.
    pub fn begin_on_signals(&self, grace: Duration) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let drain = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!(?grace, "drain_began");
            drain.begin(grace);
        });
        Ok(())
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
