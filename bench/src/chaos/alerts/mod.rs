//! `cargo xtask chaos alerts`: proves every alert by its fault. The whole product runs, watched by
//! Prometheus and Alertmanager with the shipped rules and shortened times. Each fault must raise its
//! alert within the stated time and no other page, nothing may be raised once it is repaired, and the
//! alert must end. Then nothing may be raised while a queue is paused, one recipient is greylisted
//! and everything is restarted.

mod faults;
mod monitoring;
mod shorten;
mod stage;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use programs::{
    command::build,
    progress::{paint, say, seconds},
};

use self::{
    faults::{Expected, Fault, recipient},
    monitoring::{Firing, Tools},
    stage::Stage,
};

/// By this, all times of the rules are shortened; in the short form, by more.
const FACTOR: u32 = 6;
const FACTOR_SHORT: u32 = 12;
/// What the product itself takes to notice a fault, which is not shortened: timeouts, and the
/// intervals of its gauges.
const REACTION: Duration = Duration::from_secs(12);
/// Minimum duration of a fault, in production.
const LASTS: Duration = Duration::from_mins(2);
/// How long a worker and Redis must have run undisturbed before an interruption is reported, in
/// production, and a little more.
const QUIET: Duration = Duration::from_mins(16);
/// Time after a repair in which nothing may be raised, in production.
const WATCHED_AFTER: Duration = Duration::from_mins(3);
/// Duration of the healthy stretch, in production.
const HEALTHY: Duration = Duration::from_mins(10);
/// Time until a mail about a page has arrived, beyond the alert itself: `group_wait`, and delivery.
const MAIL_WITHIN: Duration = Duration::from_secs(30);
/// Time between two looks at the alerts.
const LOOK: Duration = Duration::from_millis(200);
/// Maximum time until alerts about an earlier fault have ended.
const CALM_WITHIN: Duration = Duration::from_mins(2);
/// The faults of the short form.
const SHORT: &[Fault] = &[Fault::MailServerDown, Fault::DeadLetter, Fault::WorkerFrozen];

/// Options of the run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Cause only this fault, without the healthy stretch; may be given several times.
    #[arg(long, value_name = "FAULT")]
    only: Vec<Fault>,
    /// Cause only a few faults, faster: a minute and a half.
    #[arg(long, conflicts_with = "only")]
    short: bool,
    /// Keep the logs.
    #[arg(long)]
    keep: bool,
}

impl Options {
    fn faults(&self) -> &[Fault] {
        match (self.short, self.only.as_slice()) {
            (true, _) => SHORT,
            (false, []) => Fault::value_variants(),
            (false, only) => only,
        }
    }

    fn factor(&self) -> u32 {
        if self.short { FACTOR_SHORT } else { FACTOR }
    }
}

/// Runs and reports the result.
pub(super) async fn run(options: &Options) -> anyhow::Result<()> {
    let tools = Tools::find().await?;
    let programs = build("the product", &["--bin", "api", "--bin", "worker"], false).await?;
    let factor = options.factor();
    let mut stage = Stage::start(&programs, &tools, factor).await?;
    stage.servers.folder.disable_cleanup(options.keep);
    say(&format!("Prometheus: {}; times are shortened by {factor}", stage.prometheus.url()));
    let failures = prove_all(&stage, options, Pace { factor, begun: Instant::now() }).await;
    if !failures.is_empty() {
        stage.servers.folder.disable_cleanup(true);
        say(&format!("logs and data stay in {}", stage.servers.folder.path().display()));
    }
    stage.stop().await;
    if !failures.is_empty() {
        bail!("{} of the alerts are wrong:\n  {}", failures.len(), failures.join("\n  "));
    }
    say(&format!("{} every fault raised its alert in time, and nothing else", paint("1;32", "✓")));
    Ok(())
}

/// Returns what was wrong.
async fn prove_all(stage: &Stage, options: &Options, pace: Pace) -> Vec<String> {
    let mut failures = Vec::new();
    let mut disturbed = pace.begun;
    for fault in options.faults() {
        if fault.needs_quiet() && !options.short {
            tokio::time::sleep(pace.of(QUIET).saturating_sub(disturbed.elapsed())).await;
        }
        let outcome = prove(stage, *fault, pace).await;
        if *fault == Fault::RedisFrozen {
            disturbed = Instant::now();
        }
        let outcome = outcome.with_context(|| fault.to_string());
        failures.extend(tell(*fault, outcome));
    }
    if options.only.is_empty() && !options.short {
        let outcome = stay_healthy(stage, pace).await.context("the healthy stretch");
        failures.extend(tell("healthy", outcome.map(|()| String::new())));
    }
    failures
}

/// Prints an outcome. Returns the failure, if it is one.
fn tell(what: impl std::fmt::Display, outcome: anyhow::Result<String>) -> Option<String> {
    match outcome {
        Ok(times) => {
            say(&format!("{} {what:<19} {times}", paint("32", "✓")));
            None
        }
        Err(error) => {
            say(&format!("{} {what:<19} {error:#}", paint("31", "✗")));
            Some(format!("{error:#}"))
        }
    }
}

/// How times of production pass in this run.
#[derive(Debug, Clone, Copy)]
struct Pace {
    factor: u32,
    begun: Instant,
}

impl Pace {
    /// A time that consists of the rules' own times.
    fn of(self, time: Duration) -> Duration {
        time / self.factor
    }

    /// A time that includes the reaction of the product.
    fn limit(self, stated: Duration) -> Duration {
        let reaction = REACTION.min(stated);
        reaction + self.of(stated.saturating_sub(reaction))
    }
}

/// Causes a fault and compares what it raises. Returns the times that it took.
async fn prove(stage: &Stage, fault: Fault, pace: Pace) -> anyhow::Result<String> {
    let Expected { alert, severity, within, clears, symptoms } = fault.expected();
    calm(stage, alert).await?;
    let before = stage.prometheus.firing().await?;
    stage.alertmanager.mail.clear();
    say(&format!("  {fault:<19} expecting {alert} …"));

    let begun = Instant::now();
    let watching = async {
        raised(stage, alert, severity, pace.limit(within)).await?;
        let took = begun.elapsed();
        if severity == "page" {
            mailed(stage, alert, pace).await?;
        }
        tokio::time::sleep(pace.of(LASTS).saturating_sub(begun.elapsed())).await;
        Ok(took)
    };
    let took = tokio::select! {
        took = watching => took,
        ended = fault.cause(stage) => ended.map(|()| begun.elapsed()),
    };
    // Repaired in any case, so that the next fault can be proven.
    let during = stage.prometheus.firing().await?;
    fault.repair(stage).await.context("repairing it")?;
    let took = took?;

    let repaired = Instant::now();
    let known: BTreeSet<Firing> = before.union(&during).cloned().collect();
    let ended = ended(stage, alert, severity, clears.map(|clears| pace.limit(clears))).await?;
    late(stage, &known, symptoms, pace.of(WATCHED_AFTER).saturating_sub(repaired.elapsed()))
        .await?;
    others(stage, alert, symptoms)?;
    let ended =
        ended.map_or_else(|| "stays".to_owned(), |ended| format!("ended {} after", seconds(ended)));
    Ok(format!("{alert} after {} (limit {}), {ended}", seconds(took), seconds(pace.limit(within))))
}

/// Waits until this alert neither fires nor is about to, and no page about an earlier fault fires.
async fn calm(stage: &Stage, alert: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    while stage.prometheus.suspects(alert).await? || pages(stage).await? {
        ensure!(begun.elapsed() < CALM_WITHIN, "alerts about an earlier fault still fire");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn pages(stage: &Stage) -> anyhow::Result<bool> {
    Ok(stage.prometheus.firing().await?.iter().any(|firing| firing.severity == "page"))
}

async fn fires(stage: &Stage, alert: &str, severity: &str) -> anyhow::Result<bool> {
    let firing = stage.prometheus.firing().await?;
    Ok(firing.iter().any(|firing| firing.name == alert && firing.severity == severity))
}

/// Waits until an alert fires.
async fn raised(stage: &Stage, alert: &str, severity: &str, limit: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !fires(stage, alert, severity).await? {
        ensure!(begun.elapsed() < limit, "{alert} was not raised within {}", seconds(limit));
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until the page was mailed.
async fn mailed(stage: &Stage, alert: &str, pace: Pace) -> anyhow::Result<()> {
    let (begun, limit) = (Instant::now(), pace.limit(MAIL_WITHIN));
    while !stage.alertmanager.mailed().contains(&format!("page firing {alert}")) {
        ensure!(begun.elapsed() < limit, "{alert} was not mailed within {}", seconds(limit));
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until an alert has ended, if it must. Returns how long that took.
async fn ended(
    stage: &Stage,
    alert: &str,
    severity: &str,
    limit: Option<Duration>,
) -> anyhow::Result<Option<Duration>> {
    let Some(limit) = limit else { return Ok(None) };
    let begun = Instant::now();
    while fires(stage, alert, severity).await? {
        ensure!(begun.elapsed() < limit, "{alert} still fires {} after the repair", seconds(limit));
        tokio::time::sleep(LOOK).await;
    }
    Ok(Some(begun.elapsed()))
}

/// Watches for alerts that begin only after the repair.
async fn late(
    stage: &Stage,
    known: &BTreeSet<Firing>,
    symptoms: &[&str],
    time: Duration,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        let firing = stage.prometheus.firing().await?;
        let late =
            firing.difference(known).find(|firing| !symptoms.contains(&firing.name.as_str()));
        if let Some(Firing { name, severity }) = late {
            bail!("{name} ({severity}) was raised {} after the repair", seconds(begun.elapsed()));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Fails if another page was mailed.
fn others(stage: &Stage, alert: &str, symptoms: &[&str]) -> anyhow::Result<()> {
    for mailed in stage.alertmanager.mailed() {
        if let Some(page) = mailed.strip_prefix("page firing ") {
            ensure!(page == alert || symptoms.contains(&page), "{page} was mailed too");
        }
    }
    Ok(())
}

/// Nothing is raised by what operators do and mail servers say every day.
async fn stay_healthy(stage: &Stage, pace: Pace) -> anyhow::Result<()> {
    let before = stage.prometheus.firing().await?;
    stage.alertmanager.mail.clear();
    let part = pace.of(HEALTHY) / 3;
    say("  healthy             one greylisted recipient …");
    let greylisted = recipient();
    stage.mail.refuse(&greylisted, 451);
    stage.register(&greylisted).await?;
    late(stage, &before, &[], part).await?;
    stage.mail.accept_all();

    say("  healthy             a rolling restart …");
    stage.roll().await?;
    late(stage, &before, &[], part).await?;

    say("  healthy             paused queues …");
    for queue in ["email", "maintenance"] {
        stage.operate(&["queues", "pause", queue, "--reason", "a test of the alerts"]).await?;
    }
    stage.register(&recipient()).await?;
    let outcome = late(stage, &before, &[], part).await;
    for queue in ["email", "maintenance"] {
        stage.operate(&["queues", "resume", queue]).await?;
    }
    outcome?;
    late(stage, &before, &[], part / 2).await?;
    others(stage, "", &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reaction_of_the_product_is_not_shortened() {
        let pace = Pace { factor: 6, begun: Instant::now() };
        assert_eq!(pace.limit(Duration::from_secs(90)), Duration::from_secs(25));
        assert_eq!(pace.limit(Duration::from_secs(6)), Duration::from_secs(6));
    }
}
