//! `cargo xtask test`: runs every check, and prints a table of results and times.
//!
//! A failed step does not prevent later ones, so that one run reports everything. A step with a
//! missing tool is skipped and reported as such.

mod contract;
mod features;
mod runbooks;
mod slowest;
mod steps;

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{Args, ValueEnum};
use programs::{
    Signals,
    progress::{paint, say, seconds},
};
use tokio::task::JoinSet;

/// The options of `test`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Run only this step, and the steps that it requires.
    #[arg(long, value_name = "STEP")]
    only: Option<Step>,
    /// Run only tests with names that contain this.
    #[arg(conflicts_with = "only")]
    filter: Option<String>,
    /// Install cargo-nextest if it is missing; without it, `cargo test` runs the tests.
    #[arg(long)]
    install: bool,
}

/// One check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// `cargo fmt --check`
    Format,
    /// `cargo clippy`, warnings are errors
    Clippy,
    /// `cargo deny`: licences, duplicate crates, sources
    Deny,
    /// Whether the tests of one member use the same builds of dependencies as the workspace
    Features,
    /// `cargo build` of every program
    Build,
    /// Unit and integration tests on real servers
    Tests,
    /// The alerts of a few faults, raised by Prometheus and mailed by Alertmanager
    Alerts,
    /// The examples in the documentation
    Doctests,
    /// `cargo doc`, warnings are errors
    Docs,
    /// `promtool` and `amtool`: configuration, rules and their tests
    Rules,
    /// Consistency of dashboards, rules and runbooks
    Dashboards,
    /// The shell commands in the runbooks and guides for operators, run on a temporary stack
    Runbooks,
    /// `schemathesis`: responses of the API against its document
    Contract,
}

/// How a step ended.
enum Outcome {
    Passed,
    Skipped(String),
    Failed(anyhow::Error),
}

/// Runs the steps. Fails if one of them failed.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    // The servers of the tests stop with the future that owns them.
    tokio::select! {
        outcome = run_steps(options) => outcome,
        () = signals.asked() => bail!("stopped"),
    }
}

async fn run_steps(options: &Options) -> anyhow::Result<()> {
    let begun = Instant::now();
    let only = options.only.or(options.filter.as_ref().map(|_| Step::Tests));
    let mut results: Vec<(Step, Outcome, Duration)> = Vec::new();
    for group in chosen(only).chunk_by(|one, next| runs_beside(*one) && runs_beside(*next)) {
        let names: Vec<String> = group.iter().copied().map(name).collect();
        say(&format!("\n{}", paint("1", &format!("── {}", names.join(", ")))));
        let is_built =
            !results.iter().any(|(step, outcome, _)| *step == Step::Build && failed(outcome));
        let mut running = JoinSet::new();
        for step in group {
            running.spawn(run_step(*step, is_built, options.clone()));
        }
        while let Some(ended) = running.join_next().await {
            results.push(ended?);
        }
    }
    say(&format!("\n{}", paint("1", "── summary")));
    for (step, outcome, time) in &results {
        say(&line(*step, outcome, *time));
    }
    let failures: Vec<String> = results
        .iter()
        .filter(|(_, outcome, _)| failed(outcome))
        .map(|(step, ..)| name(*step))
        .collect();
    if !failures.is_empty() {
        bail!(
            "{} of {} steps failed: {} ({})",
            failures.len(),
            results.len(),
            failures.join(", "),
            seconds(begun.elapsed())
        );
    }
    say(&format!("{} all steps passed ({})", paint("1;32", "✓"), seconds(begun.elapsed())));
    Ok(())
}

/// Runs a step, and prints how it ended.
async fn run_step(step: Step, is_built: bool, options: Options) -> (Step, Outcome, Duration) {
    let begun = Instant::now();
    let outcome = if needs_build(step) && !is_built {
        Outcome::Skipped("the programs to test could not be built".to_owned())
    } else {
        steps::run(step, &options).await.unwrap_or_else(Outcome::Failed)
    };
    say(&line(step, &outcome, begun.elapsed()));
    (step, outcome, begun.elapsed())
}

/// Whether a step runs at the same time as its neighbours: those that mostly wait, or use one core.
fn runs_beside(step: Step) -> bool {
    use Step::{Contract, Dashboards, Docs, Doctests, Rules, Runbooks};
    matches!(step, Doctests | Docs | Rules | Dashboards | Runbooks | Contract)
}

/// The steps to run, in order: all, or one with those that it requires.
fn chosen(only: Option<Step>) -> Vec<Step> {
    match only {
        None => Step::value_variants().to_vec(),
        Some(step) if needs_build(step) => vec![Step::Build, step],
        Some(step) => vec![step],
    }
}

/// Whether a step runs the programs of the workspace.
fn needs_build(step: Step) -> bool {
    matches!(step, Step::Tests | Step::Alerts | Step::Runbooks | Step::Contract)
}

fn name(step: Step) -> String {
    step.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn failed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(_))
}

fn line(step: Step, outcome: &Outcome, time: Duration) -> String {
    let (mark, note) = match outcome {
        Outcome::Passed => (paint("32", "✓"), String::new()),
        Outcome::Skipped(reason) => (paint("33", "-"), format!("  skipped: {reason}")),
        Outcome::Failed(error) => (paint("31", "✗"), format!("  {error:#}")),
    };
    format!("{mark} {:<11} {:>12}{note}", name(step), seconds(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_includes_those_that_it_requires() {
        assert_eq!(chosen(Some(Step::Tests)), [Step::Build, Step::Tests]);
        assert_eq!(chosen(Some(Step::Docs)), [Step::Docs]);
        assert_eq!(chosen(None).len(), Step::value_variants().len());
    }
}
