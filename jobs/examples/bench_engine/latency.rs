//! How long a job waits for its start when nothing else is to do.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{Bench, Noop, Outcome, Stage, Starts};

/// Samples of a latency, the first ones of which only warm up.
const SAMPLES: u32 = 1_100;
const WARM_UP: usize = 100;
const INTERVAL: Duration = Duration::from_millis(20);

impl Bench {
    /// Measures both ways into the queue.
    pub(crate) async fn latency(&self) -> Outcome<()> {
        let load =
            format!("idle, {} jobs, {} a second", SAMPLES as usize - WARM_UP, Duration::from_secs(1).as_millis() / INTERVAL.as_millis());
        let starts = Starts::expecting(SAMPLES);
        let worker = self.work(&starts, self.config.worker.email_concurrency)?;
        let sent = paced(|n| {
            let jobs = self.jobs.clone();
            async move { jobs.enqueue_unstaged(None, &Noop { n }).await.map(drop) }
        });
        let enqueued = sent.await?;
        starts.all().await?;
        worker.stop().await?;
        tell_latency("job start, direct", &load, "from the call of enqueue", &starts, |n| enqueued[n].0);

        let starts = Starts::expecting(SAMPLES);
        let worker = self.work(&starts, self.config.worker.email_concurrency)?;
        let sent = paced(|n| {
            let jobs = self.jobs.clone();
            async move { jobs.commit(&Stage(n)).await }
        });
        let committed = sent.await?;
        starts.all().await?;
        worker.stop().await?;
        tell_latency("job start, staged", &load, "from the commit's return", &starts, |n| committed[n].1);
        tell_latency("job start, staged", &load, "from the start of the transaction", &starts, |n| committed[n].0);
        Ok(())
    }
}

/// Makes each `call` at a slow, even rate; when each call began and ended.
async fn paced<F, E>(call: impl Fn(u32) -> F) -> Outcome<Vec<(Instant, Instant)>>
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Error + Send + Sync + 'static,
{
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut sending = Vec::new();
    for n in 0..SAMPLES {
        ticks.tick().await;
        let sent = call(n);
        // Each on its own, so that a slow one does not hold up the next.
        sending.push(tokio::spawn(async move {
            let begun = Instant::now();
            sent.await.map(|()| (begun, Instant::now()))
        }));
        if (n + 1) % 500 == 0 {
            eprintln!("  engine: {} of {SAMPLES} samples", n + 1);
        }
    }
    let mut times = Vec::new();
    for sent in sending {
        times.push(sent.await??);
    }
    Ok(times)
}

fn tell_latency(measure: &str, load: &str, note: &str, starts: &Starts, from: impl Fn(usize) -> Instant) {
    let waits = starts.at.iter().enumerate().skip(WARM_UP).filter_map(|(n, at)| Some(at.get()?.saturating_duration_since(from(n))));
    let mut waits: Vec<f64> = waits.map(|wait| wait.as_secs_f64() * 1_000.0).collect();
    waits.sort_by(f64::total_cmp);
    let at = |percent: usize| waits[(waits.len() * percent).div_ceil(100).max(1) - 1];
    let latency = json!({ "p50_ms": at(50), "p95_ms": at(95), "p99_ms": at(99), "max_ms": at(100) });
    println!("{}", json!({ "measure": measure, "load": load, "latency": latency, "note": note }));
}
