//! Graceful shutdown: first no new jobs start, then, after a grace period, running jobs stop.

use std::{io, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Notifies every part of a worker process of the progress of its shutdown. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    stop: CancellationToken,
    give_up: CancellationToken,
}

impl Drain {
    /// For a process that is not shutting down.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts the shutdown: no new jobs start, and jobs still running after `grace` are handed
    /// back.
    pub fn begin(&self, grace: Duration) {
        self.stop.cancel();
        let give_up = self.give_up.clone();
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            give_up.cancel();
        });
    }

    /// Starts the shutdown at SIGTERM (a deployment) or SIGINT (Ctrl-C). Fails if the signal
    /// handlers cannot be installed.
    pub fn begin_on_signals(&self, grace: Duration) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let drain = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!(?grace, "drain_started");
            drain.begin(grace);
        });
        Ok(())
    }

    /// Whether the shutdown has begun.
    pub fn has_begun(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Resolves once the shutdown has begun.
    pub async fn begun(&self) {
        self.stop.cancelled().await;
    }

    /// Resolves once the grace period is over.
    pub async fn over(&self) {
        self.give_up.cancelled().await;
    }
}
