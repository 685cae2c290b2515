//! Logs, traces and metrics, set up the same way in every process.
//!
//! A log line is one event name with fields. `error` means someone must act, `warn` that something
//! was survived, `info` that something of note happened. Secrets and addresses are not logged.

mod export;
pub mod metrics;
pub mod trace;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config;

/// Why telemetry did not start.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

/// Running telemetry. To be stopped last, outside of async code, so that the last spans leave.
#[derive(Debug)]
pub struct Telemetry {
    spans: Option<SdkTracerProvider>,
}

/// Starts logging, and the export of spans where `telemetry.otlp_endpoint` names a collector. To
/// be called once, first thing in a process called `service`, within the runtime.
///
/// # Errors
/// When it was called before, or the filter or the collector's address does not parse.
pub fn start(config: &config::Telemetry, service: &'static str) -> Result<Telemetry, StartError> {
    let filter = filter(config)?;
    let lines = match config.format {
        config::LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
        config::LogFormat::Pretty => tracing_subscriber::fmt::layer().compact().boxed(),
    };
    let spans = if config.otlp_endpoint.is_empty() {
        None
    } else {
        Some(export::provider(&config.otlp_endpoint, service)?)
    };
    let exported = spans.as_ref().map(export::layer);
    tracing_subscriber::registry().with(lines.and_then(exported).with_filter(filter)).try_init()?;
    Ok(Telemetry { spans })
}

/// Logs to standard error instead, for a command whose answer goes to standard output. No spans.
///
/// # Errors
/// When logging was started before, or the filter does not parse.
pub fn start_on_stderr(config: &config::Telemetry) -> Result<(), StartError> {
    let filter = filter(config)?;
    let lines = match config.format {
        config::LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(std::io::stderr)
            .boxed(),
        config::LogFormat::Pretty => {
            tracing_subscriber::fmt::layer().compact().with_writer(std::io::stderr).boxed()
        }
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?;
    Ok(())
}

impl Telemetry {
    /// Sends the spans that wait, for a few seconds at most. Blocks.
    pub fn stop(self) {
        let stopped = self.spans.map(|provider| provider.shutdown());
        if let Some(Err(error)) = stopped {
            tracing::warn!(%error, "spans_not_exported");
        }
    }
}

/// What is logged. Never what the library of passkeys says: it repeats what strangers send, as long
/// as it is.
fn filter(config: &config::Telemetry) -> Result<EnvFilter, StartError> {
    let filter: EnvFilter = config.filter.parse()?;
    Ok(filter.add_directive("webauthn_rs_core=off".parse()?))
}
