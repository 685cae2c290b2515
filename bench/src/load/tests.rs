//! The generator against a small server that stalls.

use std::{net::Ipv4Addr, time::Instant};

use axum::{Router, http::StatusCode, routing::get};
use tokio::{net::TcpListener, sync::RwLock};

use super::*;

const STALL: Duration = Duration::from_millis(600);

/// A server that responds at once, except for one stall that begins after `quiet`.
async fn stalling_server(quiet: Duration) -> Target {
    let door = Arc::new(RwLock::new(()));
    let stall = Arc::clone(&door);
    tokio::spawn(async move {
        tokio::time::sleep(quiet).await;
        let _shut = stall.write().await;
        tokio::time::sleep(STALL).await;
    });
    serve(Router::new().route("/", get(move || async move { drop(door.read().await) }))).await
}

async fn serve(router: Router) -> Target {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = Target::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    target
}

/// In two seconds of 200 requests each, a stall of 0.6 s affects three of ten. A client that waits
/// for each response sends one request in that time, and finds the server quick.
#[tokio::test(flavor = "multi_thread")]
async fn a_stall_shows_in_every_request_that_it_delayed() {
    let quiet = Duration::from_millis(500);
    let time = Duration::from_secs(2);
    for connections in [1, 64] {
        let call = Arc::new(Call::get(&stalling_server(quiet).await, "/").unwrap());
        let open = open_loop(&call, 200.0, time, connections).await.unwrap();
        assert!(open.errors.is_empty(), "{open:?}");
        assert!(open.latency.p95_ms > 300.0, "the stall is hidden: {open:?}");
        assert!(open.latency.p50_ms < 100.0, "what it did not delay is quick: {open:?}");
        assert!(open.latency.max_ms >= 550.0, "{open:?}");
    }
    let call = Arc::new(Call::get(&stalling_server(quiet).await, "/").unwrap());
    let closed = closed_loop(&call, time, 1).await.unwrap();
    assert!(closed.latency.p99_ms < 100.0 && closed.latency.max_ms >= 550.0, "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offered_rate_is_sent_and_its_number_is_exact() {
    let hits = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&hits);
    let count = move || async move { seen.fetch_add(1, Ordering::Relaxed).to_string() };
    let router = Router::new().route("/", get(count));
    let call = Arc::new(Call::get(&serve(router).await, "/").unwrap());
    let begun = Instant::now();
    let report = open_loop(&call, 300.0, Duration::from_secs(1), 8).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(990));
    assert_eq!(hits.load(Ordering::Relaxed), 300);
    assert!((report.achieved_per_second - 300.0).abs() < 30.0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_counted_by_status() {
    let told = || async { (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]) };
    let router = Router::new()
        .route("/told", get(told))
        .route("/untold", get(|| async { StatusCode::SERVICE_UNAVAILABLE }));
    let target = serve(router).await;
    for (path, error) in
        [("/told", "503"), ("/untold", "503 without Retry-After"), ("/absent", "404")]
    {
        let call = Arc::new(Call::get(&target, path).unwrap());
        let report = open_loop(&call, 50.0, Duration::from_millis(200), 4).await.unwrap();
        assert_eq!(report.errors.into_iter().collect::<Vec<_>>(), [(error.to_owned(), 10)]);
    }
    let call = Arc::new(Call::get(&Target::new("http://127.0.0.1:1").unwrap(), "/").unwrap());
    let report = open_loop(&call, 50.0, Duration::from_millis(200), 4).await.unwrap();
    assert_eq!(report.errors.into_iter().collect::<Vec<_>>(), [("connection".to_owned(), 10)]);
}

#[tokio::test]
async fn a_load_out_of_bounds_is_rejected() {
    let call = Arc::new(Call::get(&Target::new("http://127.0.0.1:1").unwrap(), "/").unwrap());
    assert!(open_loop(&call, 10.0, Duration::from_secs(1), 0).await.is_err());
    assert!(open_loop(&call, 10.0, Duration::from_secs(1), 100_000).await.is_err());
    assert!(closed_loop(&call, Duration::from_hours(24), 1).await.is_err());
}
