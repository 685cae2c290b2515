//! One trace from the request over the outbox to the job, exported to a collector.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use common::{
    ambient::Ambient,
    config::{Config, Sources},
    db::Store,
};
use serde_json::json;
use tokio::net::TcpListener;
use xtask::testing::TestEnv;

const DEADLINE: Duration = Duration::from_mins(1);
const TRACE: [u8; 16] = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What was exported, as sent.
type Exports = Arc<Mutex<Vec<Bytes>>>;

/// The HTTP side of an OpenTelemetry collector.
async fn collector() -> (SocketAddr, Exports) {
    let exports = Exports::default();
    let take = |State(exports): State<Exports>, body: Bytes| async move {
        exports.lock().unwrap().push(body);
    };
    let routes = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&exports));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (address, exports)
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    body.windows(wanted.len()).any(|window| window == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_and_its_job_are_exported_in_the_callers_trace() {
    let env = TestEnv::new().await;
    let mut sources = Sources::default();
    sources.add_environment(env.config_env());
    let config = Config::load(sources).unwrap();
    Store::connect(&config.mongodb, Ambient::system()).await.unwrap().migrate(&jobs::migrations()).await.unwrap();
    let (address, exports) = collector().await;
    let endpoint = format!("http://{address}");
    let settings = [("TENANTRY__TELEMETRY__OTLP_ENDPOINT", endpoint.as_str())];
    let (api, worker) = (env.spawn_api_with(&settings).await, env.spawn_worker_with(&settings).await);

    let person = json!({ "email": "ann@example.com", "password": "correct horse battery", "name": "Ann", "tenant_name": "Acme" });
    let request = reqwest::Client::new().post(format!("{}/api/auth/register", api.url())).header("traceparent", TRACEPARENT);
    assert_eq!(request.json(&person).send().await.unwrap().status(), 202);
    env.mail().wait_for(|_| true, DEADLINE).await;
    // What still waits is exported when a process stops.
    assert!(api.stop_within(DEADLINE).await.success(), "{}", api.log_tail(20));
    assert!(worker.stop_within(DEADLINE).await.success(), "{}", worker.log_tail(20));

    let exports = exports.lock().unwrap();
    let in_trace =
        |service: &[u8], span: &[u8]| exports.iter().any(|body| contains(body, service) && contains(body, span) && contains(body, &TRACE));
    assert!(in_trace(b"api", b"request"), "{} exports", exports.len());
    assert!(in_trace(b"worker", b"registration.send_verification"), "{} exports", exports.len());
    assert!(!exports.iter().any(|body| contains(body, b"ann@example.com") || contains(body, b"correct horse")));
}
