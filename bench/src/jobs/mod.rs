//! `cargo xtask bench jobs`: the engine, its peers and the upper limit, on one Redis in one run.
//!
//! Every contestant is a program that waits for tasks ([`testkit::contest`]). For each measurement,
//! the contestants run one after the other, each on an empty server. This is repeated in several
//! rounds with a changing order, so that drift of the machine affects all alike. The report
//! contains medians.

mod contestant;
mod install;
mod measure;
mod peers;
mod report;
mod results;
mod server;
mod svg;

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use programs::{
    progress::{print, say, step},
    workspace_root,
};

use self::{
    contestant::Running,
    measure::{Measure, Plan},
    peers::Contestant,
    results::Results,
    server::Server,
};
use super::machine::Circumstances;

/// Options of the measurement.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Measure only this; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<Measure>,
    /// Number of rounds.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    rounds: u16,
    /// Measure only this contestant; may be given several times.
    #[arg(long, value_name = "NAME")]
    peer: Vec<Contestant>,
    /// Write the report into this folder.
    #[arg(long, value_name = "DIR", default_value_os_t = workspace_root().join("docs/benchmarks"))]
    out: PathBuf,
}

/// Measures, then writes a table, a plot and the numbers.
pub(super) async fn run(options: &Options) -> anyhow::Result<()> {
    let circumstances = Circumstances::now().await?;
    let server = Server::start().await?;
    let mut results = Results::new(circumstances);
    let mut running = start_all(options, &server, &mut results).await?;
    let outcome = rounds(options, &server, &mut running, &mut results).await;
    for contestant in running {
        contestant.stop().await;
    }
    // Results from before a failure are still valid.
    if results.any() {
        report::write(&results, &options.out)
            .with_context(|| format!("writing into {}", options.out.display()))?;
        print(&report::markdown(&results));
        say(&format!("written to {}", options.out.display()));
    }
    outcome
}

/// Starts the contestants. One that cannot be installed is skipped and listed with the reason.
async fn start_all(
    options: &Options,
    server: &Server,
    results: &mut Results,
) -> anyhow::Result<Vec<Running>> {
    let mut running = Vec::new();
    for contestant in Contestant::ALL {
        if !options.peer.is_empty() && !options.peer.contains(&contestant) {
            continue;
        }
        match contestant.start(server).await {
            Ok((program, versions)) => {
                results.take_part(contestant, versions);
                running.push(program);
            }
            Err(error) if contestant.is_ours() => return Err(error),
            Err(error) => {
                say(&format!("  {contestant} is skipped: {error:#}"));
                results.skip(contestant, format!("{error:#}"));
            }
        }
    }
    Ok(running)
}

async fn rounds(
    options: &Options,
    server: &Server,
    running: &mut Vec<Running>,
    results: &mut Results,
) -> anyhow::Result<()> {
    let measures: Vec<Measure> = Measure::all()
        .filter(|measure| options.only.is_empty() || options.only.contains(measure))
        .collect();
    step("warming up", warm_up(server, running)).await?;
    for round in 0..options.rounds {
        for measure in &measures {
            let what = format!("round {} of {}: {measure}", round + 1, options.rounds);
            step(what, one(*measure, round, server, running, results)).await?;
        }
    }
    Ok(())
}

/// Lets every runtime compile its code and open its connections.
async fn warm_up(server: &Server, running: &mut [Running]) -> anyhow::Result<()> {
    for contestant in running {
        if let Plan::Do(task) = Measure::WARM_UP.plan(contestant.who) {
            server.wipe().await?;
            contestant
                .measure(task)
                .await
                .with_context(|| format!("warming up {}", contestant.who))?;
        }
    }
    Ok(())
}

/// One measurement of all contestants, in an order that changes with the round.
async fn one(
    measure: Measure,
    round: u16,
    server: &Server,
    running: &mut Vec<Running>,
    results: &mut Results,
) -> anyhow::Result<()> {
    let mut order: Vec<usize> = (0..running.len()).collect();
    order.rotate_left(usize::from(round) % running.len().max(1));
    let mut failed = Vec::new();
    let mut told = Vec::new();
    for at in order {
        let contestant = &mut running[at];
        match measure.plan(contestant.who) {
            Plan::Leave(reason) => results.leave(measure, contestant.who, reason),
            Plan::Do(task) => match server.measure(measure, contestant, task).await {
                Ok(values) => {
                    told.push(format!("{} {}", contestant.who, measure.shown(&values)));
                    results.add(measure, contestant.who, &values);
                }
                Err(error) if contestant.who.is_ours() => {
                    return Err(error.context(format!(
                        "{} failed in {measure}; {}",
                        contestant.who,
                        contestant.log_tail()
                    )));
                }
                Err(error) => failed.push((at, format!("{measure} failed: {error:#}"))),
            },
        }
    }
    say(&format!("    {}", told.join(" · ")));
    // A contestant that has failed is removed, because its further results would not be reliable.
    failed.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
    for (at, reason) in failed {
        let out = running.remove(at);
        say(&format!("  {} is out: {reason}", out.who));
        results.skip(out.who, reason);
        out.stop().await;
    }
    Ok(())
}
