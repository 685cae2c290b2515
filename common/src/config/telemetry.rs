//! Configuration of logs and traces.

use super::{
    choice,
    reader::{self, Reader},
};

choice! {
    /// Format of log lines.
    LogFormat {
        /// One JSON object per line.
        Json = "json",
        /// Readable in a terminal.
        Pretty = "pretty",
    }
}

/// The `telemetry` section.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Format of log lines.
    pub format: LogFormat,
    /// Which lines are logged, as `tracing` filter directives.
    pub filter: String,
    /// OTLP/HTTP collector for traces, such as `http://otel:4318`; empty for none.
    pub otlp_endpoint: String,
    /// Share of traces that are exported, from 0 to 1; a caller that sends a `traceparent` decides
    /// for its own.
    pub trace_share: f64,
}

impl Telemetry {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            format: r.value("telemetry.format", "json", "Format of log lines: `json` or `pretty`"),
            filter: r
                .value::<reader::Filter>(
                    "telemetry.filter",
                    "info",
                    "Which lines are logged, as `tracing` filter directives",
                )
                .0,
            otlp_endpoint: r.value(
                "telemetry.otlp_endpoint",
                "",
                "OTLP/HTTP collector for traces, such as `http://otel:4318`; empty for none",
            ),
            trace_share: r
                .value::<reader::Share>(
                    "telemetry.trace_share",
                    "1",
                    "Share of traces that are exported, from `0` to `1`; a caller that sends a `traceparent` decides for its own",
                )
                .0,
        }
    }
}
