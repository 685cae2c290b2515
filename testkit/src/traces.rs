//! The collector of `cargo xtask up --trace`: appends the spans that it receives to a file, one OTLP
//! request in JSON per line (OpenTelemetry Protocol File Exporter 1.x), which trace tools can read.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt,
    net::TcpListener,
    sync::Mutex,
};

/// Receives spans on this port of 127.0.0.1 until the process ends.
pub(crate) async fn run(port: u16, path: &Path) -> anyhow::Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(path).await;
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    let routes = Router::new()
        .route("/v1/traces", post(append))
        .route("/health/ready", get(|| async { "ready\n" }))
        .with_state(Arc::new(Mutex::new(file)));
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    Ok(axum::serve(listener, routes).await?)
}

async fn append(State(file): State<Arc<Mutex<File>>>, body: Bytes) -> StatusCode {
    let Ok(spans) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let Ok(mut line) = serde_json::to_vec(&spans) else {
        return StatusCode::INTERNAL_SERVER_ERROR;
    };
    line.push(b'\n');
    let mut file = file.lock().await;
    let written = async {
        file.write_all(&line).await?;
        file.flush().await
    };
    match written.await {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::INSUFFICIENT_STORAGE,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use testkit::servers::free_port;

    use super::*;

    #[tokio::test]
    async fn spans_are_appended_as_lines_of_json() {
        let folder = tempfile::tempdir().unwrap();
        let (file, port) = (folder.path().join("spans.jsonl"), free_port().unwrap());
        let collector = tokio::spawn({
            let file = file.clone();
            async move { run(port, &file).await }
        });
        let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
        let client = reqwest::Client::new();
        tokio::time::timeout(Duration::from_secs(10), async {
            while client.get(url("/health/ready")).send().await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
        let span = Span { name: "request".to_owned(), trace_id: vec![0xab; 16], ..Span::default() };
        let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        for _ in 0..2 {
            let sent = client.post(url("/v1/traces")).body(body.clone()).send().await.unwrap();
            assert_eq!(sent.status(), 200);
        }
        let refused = client.post(url("/v1/traces")).body("rubbish").send().await.unwrap();
        assert_eq!(refused.status(), 400);
        let text = std::fs::read_to_string(file).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let span = &lines[1]["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(
            (lines.len(), &span["name"], &span["traceId"]),
            (2, &"request".into(), &"ab".repeat(16).into())
        );
        collector.abort();
    }
}
