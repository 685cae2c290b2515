//! Sending commands to MongoDB, in turn and measured.

use std::{future::Future, time::Instant};

use futures::FutureExt;
use mongodb::error::Result;
use tracing::Instrument;

use super::turns::Turns;
use crate::telemetry::{metrics, trace::Call};

/// Runs a command when its turn comes, and records the duration of both and, within a trace, a span.
/// There is no collection if it is a commit. Not an `async fn`, which would store the running
/// command twice.
pub(super) fn observed<T, F: Future<Output = Result<T>>>(
    turns: &Turns,
    command: &'static str,
    collection: Option<&'static str>,
    running: F,
) -> impl Future<Output = Result<T>> {
    let begun = Instant::now();
    turns.take(running).instrument(Call::Mongodb { command, collection }.span()).inspect(
        move |_| {
            metrics::DB_COMMAND_DURATION
                .with_label_values(&[command, collection.unwrap_or_default()])
                .observe(begun.elapsed().as_secs_f64());
        },
    )
}
