//! `cargo xtask chaos`: runs the job engine under every kind of fault, on real servers and several
//! worker processes, while jobs are staged and enqueued. A ledger of accepted and completed jobs
//! proves that none was lost. The same seed produces the same faults. [`alerts`] runs the whole
//! product instead, to prove its alerts.

mod alerts;
mod field;
mod ledger;
mod schedule;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use mongodb::bson::{DateTime, Document, doc};
use programs::{
    command::build,
    progress::{paint, say, seconds, step},
};

use self::{
    field::{Field, PROGRAM},
    ledger::{Ledger, Verdict, some},
    schedule::{Fault, schedule},
};

/// Time before the first fault, for everything to start.
const WARM_UP: Duration = Duration::from_secs(3);
/// Maximum time for the remaining jobs after the faults have ended.
const SETTLE_MAX: Duration = Duration::from_mins(3);

/// Options of the run.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Repeat the faults of this seed; by default a random seed, which is printed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Duration of the faults in minutes.
    #[arg(long, value_name = "M", default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,
    /// Keep the logs.
    #[arg(long)]
    keep: bool,
}

/// Another subject than the job engine.
#[derive(Debug, Subcommand)]
enum Part {
    /// Run the whole product under faults, and prove that each raises its alert in time.
    Alerts(alerts::Options),
}

fn minutes(text: &str) -> Result<f64, &'static str> {
    let minutes = text.parse().ok().filter(|minutes| (0.1..=240.0).contains(minutes));
    minutes.ok_or("must be a number from 0.1 to 240")
}

/// A fault that happened.
struct Suffered {
    fault: Fault,
    ended: DateTime,
}

/// Runs and reports the result.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(Part::Alerts(options)) = &options.part {
        return alerts::run(options).await;
    }
    let seed = options.seed.unwrap_or_else(rand::random);
    let programs = build("the programs to disturb", &["--example", PROGRAM], false).await?;
    say(&format!(
        "seed {seed}; `cargo xtask chaos --seed {seed} --minutes {}` repeats the same faults",
        options.minutes
    ));
    let time = Duration::from_secs_f64(options.minutes * 60.0);
    disturb(&programs, seed, time, options.keep).await.with_context(|| format!("seed {seed}"))
}

async fn disturb(programs: &Path, seed: u64, time: Duration, keep: bool) -> anyhow::Result<()> {
    let mut field =
        step("starting servers, a producer and workers", Field::start(programs)).await?;
    field.folder.disable_cleanup(keep);
    let begun = Instant::now();
    tokio::time::sleep(WARM_UP).await;
    let mut suffered = Vec::new();
    for planned in schedule(seed, time) {
        tokio::time::sleep(planned.pause).await;
        say(&format!("{:>8}  {}", seconds(begun.elapsed()), planned.fault));
        field.suffer(planned.fault, planned.lasts).await?;
        suffered.push(Suffered { fault: planned.fault, ended: DateTime::now() });
    }
    tokio::time::sleep(WARM_UP).await;
    field.stop_producing().await;
    let settled = step("waiting for the rest of the work", settle(&field)).await;
    field.stop().await;
    let ledger = Ledger::read(&field.database().await?).await?;
    let verdict = ledger.verdict();
    tell(&ledger, &verdict, &suffered);
    if settled.is_err() || !verdict.is_clean() {
        field.folder.disable_cleanup(true);
        say(&format!("logs and data stay in {}", field.folder.path().display()));
    }
    settled?;
    ensure!(verdict.is_clean(), "guarantees were violated");
    ensure!(verdict.done > 0, "no job was done");
    say(&format!("{} nothing staged was lost, every effect happened once", paint("1;32", "✓")));
    Ok(())
}

/// Waits until no jobs are left.
async fn settle(field: &Field) -> anyhow::Result<()> {
    let outbox = field.database().await?.collection::<Document>("outbox");
    let begun = Instant::now();
    loop {
        let (rows, jobs) =
            (outbox.count_documents(doc! { "dead_at": null }).await?, field.jobs_in_redis().await?);
        if rows == 0 && jobs == 0 {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < SETTLE_MAX,
            "after {SETTLE_MAX:?} the outbox still has {rows} rows and Redis {jobs} jobs"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Prints the contents of the ledger, and the recovery times by kind of fault.
fn tell(ledger: &Ledger, verdict: &Verdict, suffered: &[Suffered]) {
    let Verdict { accepted, staged, done, dead, repeated, direct_lost, .. } = verdict;
    say(&format!("{} faults, {accepted} jobs accepted, {staged} of them staged", suffered.len()));
    say(&format!(
        "{done} done, {repeated} of them run more than once; {dead} dead-lettered as expected"
    ));
    say(&format!(
        "{direct_lost} of {} enqueued without the outbox were lost with Redis",
        accepted - staged
    ));
    for (what, ids) in [
        ("lost", &verdict.lost),
        ("done, but still queued", &verdict.stuck),
        ("with an effect although they should have failed", &verdict.wrong),
        ("dead-lettered although other jobs crashed the worker", &verdict.blamed),
    ] {
        say(&format!(
            "{} {what}{}{}",
            ids.len(),
            if ids.is_empty() { "" } else { ": " },
            some(ids)
        ));
    }
    let mut times = BTreeMap::<&str, Vec<Duration>>::new();
    for Suffered { fault, ended } in suffered {
        times.entry(fault.name()).or_default().extend(ledger.recovered_after(*ended));
    }
    say("time from the end of a fault until a job accepted after it is done:");
    for (name, mut times) in times {
        times.sort_unstable();
        let (median, longest) = (times.get(times.len() / 2), times.last());
        let shown =
            |time: Option<&Duration>| time.map_or_else(|| "-".to_owned(), |time| seconds(*time));
        say(&format!(
            "  {name:<18} ×{:<3} median {:>8}, longest {:>8}",
            times.len(),
            shown(median),
            shown(longest)
        ));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn minutes_are_bounded() {
        assert_eq!(super::minutes("0.5"), Ok(0.5));
        assert!(["0", "-1", "241", "NaN", "ten"].iter().all(|text| super::minutes(text).is_err()));
    }
}
