//! Logs, traces and metrics, set up the same way in every process.
//!
//! A log line is one event name with fields. `error` means someone must act, `warn` that something
//! was survived, `info` that something of note happened. Secrets and addresses are not logged.

pub mod metrics;
pub mod trace;

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config;

/// Starts logging. To be called once, first thing in `main`.
///
/// # Errors
/// When it was called before, or the filter does not parse.
pub fn start(config: &config::Telemetry) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter: EnvFilter = config.filter.parse()?;
    let lines = match config.format {
        config::LogFormat::Json => tracing_subscriber::fmt::layer().json().flatten_event(true).boxed(),
        config::LogFormat::Pretty => tracing_subscriber::fmt::layer().compact().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(())
}
