//! How many jobs a second are pushed and drained.

use std::time::Instant;

use serde_json::json;

use crate::{Bench, Noop, Outcome, Stage, raw::BATCH};

/// Jobs waiting before a drain, and jobs of one push.
const BACKLOG: u32 = 20_000;
const STAGED_BACKLOG: u32 = 2_000;
/// Jobs pushed one a call.
const SINGLES: u32 = 5_000;
const PRODUCERS: u32 = 50;
const CONCURRENCIES: [usize; 4] = [1, 10, 50, 200];
const ROUNDS: usize = 5;

impl Bench {
    /// Measures everything in rounds.
    pub(crate) async fn rate(&self) -> Outcome<()> {
        let mut rates = Rates::default();
        for round in 0..ROUNDS {
            eprintln!("  engine: round {} of {ROUNDS}", round + 1);
            // There and back again, so that a drift of the machine meets all alike.
            let mut order: Vec<usize> = (0..CONCURRENCIES.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            rates.raw.push(self.raw(BACKLOG).await?);
            for at in order {
                rates.push_batched.push(self.push_batched().await?);
                rates.drain[at].push(self.drain(BACKLOG, CONCURRENCIES[at]).await?);
            }
            rates.push_single.push(self.push_single(1).await?);
            self.drain(SINGLES, CONCURRENCIES[3]).await?;
            rates.push_parallel.push(self.push_single(PRODUCERS).await?);
            self.drain(SINGLES, CONCURRENCIES[3]).await?;
            rates.stage.push(self.stage_backlog().await?);
            rates.drain_staged.push(self.drain(STAGED_BACKLOG, CONCURRENCIES[2]).await?);
            rates.raw.push(self.raw(BACKLOG).await?);
        }
        rates.tell();
        Ok(())
    }

    async fn push_batched(&self) -> Outcome<f64> {
        let batch: Vec<Noop> = (0..BACKLOG).map(|n| Noop { n }).collect();
        let begun = Instant::now();
        self.jobs.enqueue_all_unstaged(None, &batch).await?;
        Ok(f64::from(BACKLOG) / begun.elapsed().as_secs_f64())
    }

    /// One job a call, from `producers` tasks that share a connection.
    async fn push_single(&self, producers: u32) -> Outcome<f64> {
        let begun = Instant::now();
        let pushing = (0..producers).map(|producer| async move {
            for n in (0..SINGLES).filter(|n| n % producers == producer) {
                self.jobs.enqueue_unstaged(None, &Noop { n }).await?;
            }
            Outcome::Ok(())
        });
        futures::future::try_join_all(pushing).await?;
        Ok(f64::from(SINGLES) / begun.elapsed().as_secs_f64())
    }

    /// A transaction a job, from many tasks, until Redis has all of them.
    async fn stage_backlog(&self) -> Outcome<f64> {
        let begun = Instant::now();
        let staging = (0..PRODUCERS).map(|producer| async move {
            for n in (0..STAGED_BACKLOG).filter(|n| n % PRODUCERS == producer) {
                self.jobs.commit(&Stage(n)).await?;
            }
            Outcome::Ok(())
        });
        futures::future::try_join_all(staging).await?;
        self.until(STAGED_BACKLOG.into()).await?;
        Ok(f64::from(STAGED_BACKLOG) / begun.elapsed().as_secs_f64())
    }
}

/// Jobs a second, one a round.
#[derive(Default)]
struct Rates {
    /// Pushed and drained.
    raw: Vec<(f64, f64)>,
    push_batched: Vec<f64>,
    push_single: Vec<f64>,
    push_parallel: Vec<f64>,
    drain: [Vec<f64>; CONCURRENCIES.len()],
    stage: Vec<f64>,
    drain_staged: Vec<f64>,
}

impl Rates {
    fn tell(&self) {
        let raw = format!("{BACKLOG} entries, one connection, batches of {BATCH}");
        let (raw_pushed, raw_drained): (Vec<f64>, Vec<f64>) = self.raw.iter().copied().unzip();
        let (pushed, drained) = (median(&raw_pushed), median(&raw_drained));
        tell_rate("raw stream, push", &raw, &raw_pushed, "XADD; the limit");
        tell_rate("raw stream, drain", &raw, &raw_drained, "XREADGROUP, XACK + XDEL; the limit");
        let against = |rates: &[f64], raw: f64| format!("{:.2} × raw", median(rates) / raw);
        let load = format!("{BACKLOG} in one call");
        tell_rate("jobs pushed, direct", &load, &self.push_batched, &against(&self.push_batched, pushed));
        tell_rate("jobs pushed, direct", "one a call, one task", &self.push_single, "");
        tell_rate("jobs pushed, direct", &format!("one a call, {PRODUCERS} tasks"), &self.push_parallel, "");
        for (concurrency, rates) in CONCURRENCIES.iter().zip(&self.drain) {
            let load = format!("{BACKLOG} waiting, concurrency {concurrency}");
            tell_rate("jobs drained, direct", &load, rates, &against(rates, drained));
        }
        let load = format!("a transaction a job, {PRODUCERS} tasks");
        tell_rate("jobs staged", &load, &self.stage, "until Redis has them");
        let load = format!("{STAGED_BACKLOG} waiting, concurrency {}", CONCURRENCIES[2]);
        tell_rate("jobs drained, staged", &load, &self.drain_staged, &against(&self.drain_staged, drained));
    }
}

fn tell_rate(measure: &str, load: &str, rates: &[f64], note: &str) {
    let (low, high) = rates.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), rate| (low.min(*rate), high.max(*rate)));
    let separator = if note.is_empty() { "" } else { "; " };
    let note = format!("{note}{separator}median of {}, {low:.0}–{high:.0}", rates.len());
    println!("{}", json!({ "measure": measure, "load": load, "achieved_per_second": median(rates), "note": note }));
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
