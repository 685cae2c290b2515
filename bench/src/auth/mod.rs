//! `cargo xtask bench auth`: the cost of authentication.
//!
//! Signing in is compared with bare argon2, and a request of a signed-in user with an
//! unauthenticated one. Each pair alternates as A B B A, so that drift of the machine affects both
//! alike. Then more people sign in than the API can handle, or many clients send their bodies
//! slowly, and the effect on signed-in users is measured. Everything is measured once per round;
//! the report contains medians.

mod flood;
mod limit;
mod login;
mod overhead;
mod report;
mod results;
mod slow;
mod traffic;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use programs::{
    progress::{print, say, step},
    workspace_root,
};
use reqwest::StatusCode;

use self::{limit::Limit, results::Results};
use super::{
    accounts::{login, sign_in, sign_up},
    load::{Call, Target},
    machine::Circumstances,
    stack::Stack,
};
use crate::build::{example, product};

/// Accounts that sign in in turn: more than sign in at once, because each sign-in writes the row of
/// its account.
const ACCOUNTS: usize = 32;
/// Limit of failures and mails: no request may be rejected because all come from one IP address.
const THROTTLE: &str = "10000000";

/// Options of the measurement.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Measure only this; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<Measure>,
    /// Number of rounds.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    rounds: u16,
    /// Duration of each load in seconds; a round has a dozen of them.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=60))]
    seconds: u16,
    /// Passwords hashed at once. The default is half the number of cores, so that the databases,
    /// the worker and the load generator, which run on other machines in production, can use the
    /// other half.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    hash_threads: Option<u16>,
    /// Write the report into this folder.
    #[arg(long, value_name = "DIR", default_value_os_t = workspace_root().join("docs/benchmarks"))]
    out: PathBuf,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Sign-ins per second, compared with hashes per second
    Login,
    /// What authentication adds to a request
    Overhead,
    /// Other requests during a flood of sign-ins, ten times the capacity
    Flood,
    /// Other requests beside clients that send their bodies slowly
    Slow,
}

impl Options {
    fn wants(&self, measure: Measure) -> bool {
        self.only.is_empty() || self.only.contains(&measure)
    }
}

/// Measures, then writes a table and the numbers.
pub(super) async fn run(options: &Options) -> anyhow::Result<()> {
    let circumstances = Circumstances::now().await?;
    let threads =
        options.hash_threads.map_or_else(|| u16::try_from(circumstances.cores.div_ceil(2)), Ok)?;
    let limit = Limit { program: example(limit::PROGRAM).await?, threads };
    let stack = Stack::start_with(&product().await?, &settings(threads)).await?;
    let mut results = Results::new(circumstances);
    let outcome = rounds(options, &stack, &limit, &mut results).await;
    let outcome = outcome.with_context(|| format!("the log of the API:\n{}", stack.api_log()));
    stack.stop().await;
    // Results from before a failure are still valid.
    if results.any() {
        report::write(&results, &options.out)
            .with_context(|| format!("writing into {}", options.out.display()))?;
        print(&report::markdown(&results));
        say(&format!("written to {}", options.out.display()));
    }
    outcome
}

/// Sets the number of hashing threads, and disables limits per network.
fn settings(threads: u16) -> Vec<(&'static str, String)> {
    let unthrottled = [
        "TENANTRY__AUTH__LOGIN_FAILURES_PER_ACCOUNT",
        "TENANTRY__AUTH__LOGIN_FAILURES_PER_NETWORK",
        "TENANTRY__AUTH__MAILS_PER_ACCOUNT",
        "TENANTRY__AUTH__MAILS_PER_NETWORK",
    ];
    let mut settings: Vec<_> = unthrottled.map(|name| (name, THROTTLE.to_owned())).into();
    settings.push(("TENANTRY__AUTH__HASH_CONCURRENCY", threads.to_string()));
    // The connections of trusted proxies are not limited.
    settings.push(("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.1".to_owned()));
    settings
}

/// What is measured, and for how long.
struct Field<'a> {
    stack: &'a Stack,
    limit: &'a Limit,
    target: Target,
    /// Signs in with one account after the other.
    sign_in: Arc<Call>,
    time: Duration,
}

impl<'a> Field<'a> {
    async fn prepared(stack: &'a Stack, limit: &'a Limit, time: Duration) -> anyhow::Result<Self> {
        let signing_up = async {
            for number in 0..ACCOUNTS {
                sign_up(stack, &address(number)).await?;
                // The first sign-in does more: the network is new, so the user is notified by mail.
                sign_in(stack, &address(number)).await?;
            }
            Ok(())
        };
        step(format!("signing up {ACCOUNTS} people"), signing_up).await?;
        let target = Target::new(&stack.url())?;
        let turn = AtomicUsize::new(0);
        let body = move || login(&address(turn.fetch_add(1, Ordering::Relaxed) % ACCOUNTS));
        let sign_in = Arc::new(Call::post(&target, "/api/auth/login", StatusCode::OK, body)?);
        Ok(Self { stack, limit, target, sign_in, time })
    }

    fn get(&self, path: &str) -> anyhow::Result<Call> {
        Call::get(&self.target, path)
    }

    /// Signs in just before use, because a run may take longer than the lifetime of a token.
    async fn get_signed_in(&self, path: &str) -> anyhow::Result<Call> {
        self.get(path)?.bearer(&sign_in(self.stack, &address(0)).await?)
    }
}

fn address(number: usize) -> String {
    format!("bench-{number}@example.com")
}

async fn rounds(
    options: &Options,
    stack: &Stack,
    limit: &Limit,
    results: &mut Results,
) -> anyhow::Result<()> {
    let field = Field::prepared(stack, limit, Duration::from_secs(options.seconds.into())).await?;
    for round in 1..=options.rounds {
        let what = |measure: &str| format!("round {round} of {}: {measure}", options.rounds);
        if options.wants(Measure::Overhead) {
            step(
                what("authenticated and unauthenticated requests"),
                overhead::round(&field, results),
            )
            .await?;
        }
        if options.wants(Measure::Login) {
            step(what("sign-ins and bare hashes"), login::round(&field, results)).await?;
        }
        if options.wants(Measure::Flood) {
            step(what("a flood of sign-ins"), flood::round(&field, results)).await?;
        }
        if options.wants(Measure::Slow) {
            step(what("slow clients"), slow::round(&field, results)).await?;
        }
    }
    Ok(())
}
