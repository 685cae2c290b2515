//! `cargo xtask bench access`: what access for programs costs.
//!
//! Each measure compares a kind of request with the same request without what is measured. The two
//! alternate as A B B A, so that drift of the machine affects both alike. Everything is measured once
//! per round; the report contains medians.

mod idempotency;
mod keys;
mod limits;
mod report;
mod results;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::{Args, ValueEnum};
use programs::{
    progress::{print, say, step},
    workspace_root,
};

use self::{idempotency::Posts, keys::Keys, limits::Counting, results::Results};
use super::{machine::Circumstances, stack::Stack};
use crate::build::product;

/// No request may be rejected because there were many.
const UNLIMITED: &str = "10000000";

/// Options of the measurement.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Measure only this; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<Measure>,
    /// Number of rounds.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    rounds: u16,
    /// Duration of each load in seconds.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=60))]
    seconds: u16,
    /// Write the report into this folder.
    #[arg(long, value_name = "DIR", default_value_os_t = workspace_root().join("docs/benchmarks"))]
    out: PathBuf,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Requests with an idempotency key
    Idempotency,
    /// What rate limits add to a request
    Limits,
    /// Requests with an API key, and a flood of them
    Keys,
}

impl Options {
    fn wants(&self, measure: Measure) -> bool {
        self.only.is_empty() || self.only.contains(&measure)
    }
}

/// Measures, then writes a table and the numbers.
pub(super) async fn run(options: &Options) -> anyhow::Result<()> {
    let circumstances = Circumstances::now().await?;
    let programs = product().await?;
    let stack = Stack::start_with(&programs, &settings()).await?;
    let uncounted = Stack::start_with(&programs, &uncounted()).await?;
    let mut results = Results::new(circumstances);
    let outcome = rounds(options, &stack, &uncounted, &mut results).await;
    let outcome = outcome.with_context(|| format!("the log of the API:\n{}", stack.api_log()));
    stack.stop().await;
    uncounted.stop().await;
    // Results from before a failure are still valid.
    if results.any() {
        report::write(&results, &options.out)
            .with_context(|| format!("writing into {}", options.out.display()))?;
        print(&report::markdown(&results));
        say(&format!("written to {}", options.out.display()));
    }
    outcome
}

fn settings() -> Vec<(&'static str, String)> {
    vec![
        ("TENANTRY__AUTH__MAILS_PER_NETWORK", UNLIMITED.to_owned()),
        ("TENANTRY__MEMBERS__INVITE_LINKS_MAX", "1000".to_owned()),
        // The connections of trusted proxies are not limited.
        ("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.1".to_owned()),
    ]
}

/// Without rate limits.
fn uncounted() -> Vec<(&'static str, String)> {
    let limits = [
        "TENANTRY__RATE_LIMITS__NETWORK",
        "TENANTRY__RATE_LIMITS__USER",
        "TENANTRY__RATE_LIMITS__KEY",
        "TENANTRY__RATE_LIMITS__TENANT",
    ];
    let none = limits.map(|limit| (limit, "0".to_owned()));
    settings().into_iter().chain(none).collect()
}

async fn rounds(
    options: &Options,
    stack: &Stack,
    uncounted: &Stack,
    results: &mut Results,
) -> anyhow::Result<()> {
    let time = Duration::from_secs(options.seconds.into());
    let posts = Posts::prepared(stack).await?;
    let counting = Counting::prepared(stack, uncounted).await?;
    let keys = Keys::prepared(stack).await?;
    for round in 1..=options.rounds {
        let what = |measure: &str| format!("round {round} of {}: {measure}", options.rounds);
        if options.wants(Measure::Idempotency) {
            step(what("requests with a key and without"), posts.round(time, results)).await?;
        }
        if options.wants(Measure::Limits) {
            step(what("requests with rate limits"), counting.round(time, results)).await?;
        }
        if options.wants(Measure::Keys) {
            step(what("requests with API keys"), keys.round(time, results)).await?;
        }
    }
    Ok(())
}
