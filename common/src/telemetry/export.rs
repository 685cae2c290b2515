//! Export of spans over OTLP/HTTP (OpenTelemetry Protocol 1.x), if a collector is configured.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, hyper::HyperClient};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider, Tracer},
};
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::registry::LookupSpan;

use super::StartError;
use crate::config;

/// Timeout of an export. Spans that exceed the queue meanwhile are dropped.
const EXPORT_MAX: Duration = Duration::from_secs(5);

/// Exports batches of spans to the configured collector, in the background.
pub(super) fn provider(
    config: &config::Telemetry,
    service: &'static str,
) -> Result<SdkTracerProvider, StartError> {
    let client = OnRuntime {
        runtime: Handle::current(),
        client: Arc::new(HyperClient::with_default_connector(EXPORT_MAX, None)),
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(format!("{}/v1/traces", config.otlp_endpoint.trim_end_matches('/')))
        .with_timeout(EXPORT_MAX)
        .build()?;
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", service),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace_share)));
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .with_sampler(sampler)
        .build())
}

/// The `tracing` layer that exports spans.
pub(super) fn layer<S: Subscriber + for<'s> LookupSpan<'s>>(
    provider: &SdkTracerProvider,
) -> OpenTelemetryLayer<S, Tracer> {
    tracing_opentelemetry::layer().with_tracer(provider.tracer("tenantry"))
}

/// Runs the HTTP client on the runtime: the exporter has a thread of its own, which could not drive
/// the client's connections.
#[derive(Debug)]
struct OnRuntime {
    runtime: Handle,
    client: Arc<HyperClient>,
}

#[async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = Arc::clone(&self.client);
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}
