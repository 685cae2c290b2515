//! Logs, traces and metrics, set up in the same way in every process.
//!
//! A log line is an event name with fields. `error` means that someone must act, `warn` that the
//! process recovered from a problem, `info` that something notable happened. Secrets and email
//! addresses are not logged.

mod export;
mod lines;
pub mod metrics;
pub mod trace;

use std::io;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer,
    field::MakeExt,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use self::lines::JsonLines;
use crate::config;

/// Why telemetry could not be started.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

/// Running telemetry. Stop it last, outside of async code, so that the last spans are exported.
#[derive(Debug)]
pub struct Telemetry {
    spans: Option<SdkTracerProvider>,
}

/// Starts logging, and exports spans if `telemetry.otlp_endpoint` names a collector. Call it once,
/// first in a process called `service`, within the runtime. Fails if logging was already started,
/// or the filter or the collector's URL is invalid.
pub fn start(config: &config::Telemetry, service: &'static str) -> Result<Telemetry, StartError> {
    let spans = if config.otlp_endpoint.is_empty() {
        None
    } else {
        Some(export::provider(config, service)?)
    };
    // Log lines show the fields of one span, which must be that of the request or job.
    let lines =
        lines(config.format, true, io::stdout).with_filter(with_calls(filter(config)?, "off")?);
    let exported = match &spans {
        Some(spans) => Some(export::layer(spans).with_filter(with_calls(filter(config)?, "info")?)),
        None => None,
    };
    tracing_subscriber::registry().with(lines).with(exported).try_init()?;
    Ok(Telemetry { spans })
}

/// Logs to standard error, for commands whose result goes to standard output. Exports no spans.
pub fn start_on_stderr(config: &config::Telemetry) -> Result<(), StartError> {
    let filter = filter(config)?;
    let lines = lines(config.format, false, io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?;
    Ok(())
}

impl Telemetry {
    /// Exports the remaining spans, for at most a few seconds. Blocks.
    pub fn stop(self) {
        let stopped = self.spans.map(|provider| provider.shutdown());
        if let Some(Err(error)) = stopped {
            tracing::warn!(%error, "spans_not_exported");
        }
    }
}

/// The layer that writes log lines, and reports on standard error, if wanted, that it cannot.
fn lines<S, M>(format: config::LogFormat, reports: bool, to: M) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    M: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().log_internal_errors(reports);
    match format {
        config::LogFormat::Json => lines
            .with_writer(JsonLines(to))
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
        config::LogFormat::Pretty => {
            let fields = fmt::format::debug_fn(lines::field).delimited(" ");
            lines.with_writer(to).compact().fmt_fields(fields).boxed()
        }
    }
}

/// The filter, with the spans of calls from this level on.
fn with_calls(filter: EnvFilter, level: &str) -> Result<EnvFilter, StartError> {
    Ok(filter.add_directive(format!("{}={level}", trace::CALLS).parse()?))
}

/// Which lines are logged. Never those of the passkey library, which repeat input of any length.
fn filter(config: &config::Telemetry) -> Result<EnvFilter, StartError> {
    let filter: EnvFilter = config.filter.parse()?;
    Ok(filter.add_directive("webauthn_rs_core=off".parse()?))
}
