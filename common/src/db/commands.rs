//! Measurement of the commands that are sent to MongoDB.

use std::{future::Future, time::Instant};

use futures::FutureExt;
use tracing::Instrument;

use crate::telemetry::{metrics, trace::Call};

/// Runs a command, and records its duration and, within a trace, a span. There is no collection if
/// it is a commit. Not an `async fn`, which would store the running command twice.
pub(super) fn observed<F: Future>(
    command: &'static str,
    collection: Option<&'static str>,
    running: F,
) -> impl Future<Output = F::Output> {
    let begun = Instant::now();
    running.instrument(Call::Mongodb { command, collection }.span()).inspect(move |_| {
        metrics::DB_COMMAND_DURATION
            .with_label_values(&[command, collection.unwrap_or_default()])
            .observe(begun.elapsed().as_secs_f64());
    })
}
