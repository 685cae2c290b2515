//! What counting adds to a request, compared with a round trip to Redis.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use hdrhistogram::Histogram;
use redis::{Client, aio::MultiplexedConnection};

use super::results::{Figure, Results};
use crate::{
    accounts::{sign_in, sign_up},
    load::{Call, Latency, Target, open_loop},
    stack::Stack,
};

/// Requires a valid token and a permission, and is answered from memory.
pub(super) const PATH: &str = "/api/tenant/current";
/// Requests per second: far below the capacity.
pub(super) const RATE: f64 = 200.0;
pub(super) const CONNECTIONS: usize = 16;
/// Duration of requests that open the connections and fill the caches.
pub(super) const WARM_UP: Duration = Duration::from_millis(500);
const ADDRESS: &str = "limits@example.com";
/// Round trips to Redis in a round.
const PINGS: u32 = 2_000;

/// The same request to an API that counts requests and to one that does not.
pub(super) struct Counting<'a> {
    counted: &'a Stack,
    uncounted: &'a Stack,
}

impl<'a> Counting<'a> {
    pub(super) async fn prepared(counted: &'a Stack, uncounted: &'a Stack) -> anyhow::Result<Self> {
        for stack in [counted, uncounted] {
            sign_up(stack, ADDRESS).await?;
        }
        Ok(Self { counted, uncounted })
    }

    /// One round, in the order A B B A, and round trips to Redis.
    pub(super) async fn round(&self, time: Duration, results: &mut Results) -> anyhow::Result<()> {
        let (bare, counted) = (call(self.uncounted).await?, call(self.counted).await?);
        for call in [&bare, &counted] {
            ask(call, WARM_UP).await?;
        }
        let first = ask(&bare, time).await?;
        let second = ask(&counted, time).await?;
        let ping = ping_p95(self.counted).await?;
        let third = ask(&counted, time).await?;
        let last = ask(&bare, time).await?;
        let bare = f64::midpoint(first.p95_ms, last.p95_ms);
        let counted = f64::midpoint(second.p95_ms, third.p95_ms);
        results.add(Figure::UncountedP95, bare);
        results.add(Figure::CountedP95, counted);
        results.add(Figure::PingP95, ping);
        results.add(Figure::CountingOfPing, (counted - bare) / ping);
        Ok(())
    }
}

async fn call(stack: &Stack) -> anyhow::Result<Arc<Call>> {
    let token = sign_in(stack, ADDRESS).await?;
    Ok(Arc::new(Call::get(&Target::new(&stack.url())?, PATH)?.bearer(&token)?))
}

/// Sends requests, all of which must succeed.
pub(super) async fn ask(call: &Arc<Call>, time: Duration) -> anyhow::Result<Latency> {
    let report = open_loop(call, RATE, time, CONNECTIONS).await?;
    ensure!(report.errors.is_empty(), "not every request succeeded: {:?}", report.errors);
    Ok(report.latency)
}

/// The p95 of a `PING`, sent at the rate of the requests, in milliseconds.
async fn ping_p95(stack: &Stack) -> anyhow::Result<f64> {
    let client = Client::open(stack.servers().redis.url())?;
    let mut connection: MultiplexedConnection = client.get_multiplexed_async_connection().await?;
    let mut micros = Histogram::<u64>::new(3)?;
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / RATE));
    for _ in 0..PINGS {
        ticks.tick().await;
        let started = Instant::now();
        let () = redis::cmd("PING").exec_async(&mut connection).await?;
        micros.record(u64::try_from(started.elapsed().as_micros())?)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "no round trip takes 2^53 µs")]
    let p95 = micros.value_at_quantile(0.95) as f64;
    Ok(p95 / 1000.0)
}
