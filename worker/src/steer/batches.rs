//! `worker batches`: how far jobs are that were staged as one.

use anyhow::Context;
use clap::{Subcommand, builder::RangedU64ValueParser};
use common::{
    clock::rfc3339_millis,
    id::{BatchId, JobId, TenantId},
};
use jobs::{
    Jobs,
    batches::{BATCHES_MAX, Batch},
};
use serde::Serialize;

use super::{
    say,
    text::{json, pretty_json, printable, time},
};

/// Which batches to look at.
#[derive(Subcommand)]
pub(crate) enum BatchesCommand {
    /// List batches: those in progress, newest first, then the complete ones, those completed last
    /// first.
    List {
        /// This many at most.
        #[arg(long, default_value_t = 50, value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(BATCHES_MAX)))]
        limit: u32,
        /// A JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show how one batch stands, and which job follows it.
    Show {
        /// The batch.
        batch: BatchId,
        /// As a JSON object.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(jobs: &Jobs, command: BatchesCommand) -> anyhow::Result<()> {
    match command {
        BatchesCommand::List { limit, json } => list(jobs, limit, json).await,
        BatchesCommand::Show { batch, json } => show(jobs, batch, json).await,
    }
}

async fn list(jobs: &Jobs, limit: u32, as_json: bool) -> anyhow::Result<()> {
    let batches = jobs.batches(limit).await?;
    for batch in &batches {
        say(&if as_json { json(&BatchView::of(batch))? } else { summary(batch) })?;
    }
    if batches.len() >= limit as usize {
        eprintln!("{limit} shown; there may be more, see --limit");
    }
    Ok(())
}

async fn show(jobs: &Jobs, id: BatchId, as_json: bool) -> anyhow::Result<()> {
    let found = jobs.batch(id).await?;
    let batch = found.with_context(|| {
        format!("{id} is not known: it was complete for long and is forgotten, or never was")
    })?;
    if as_json {
        return Ok(say(&pretty_json(&BatchView::of(&batch))?)?);
    }
    for line in whole(&batch) {
        say(&line)?;
    }
    Ok(())
}

/// A batch as JSON has it.
#[derive(Serialize)]
struct BatchView<'a> {
    id: BatchId,
    tenant: Option<TenantId>,
    total: i64,
    done: i64,
    dead: i64,
    staged_at: String,
    completed_at: Option<String>,
    follows: JobId,
    follows_kind: &'a str,
}

impl<'a> BatchView<'a> {
    fn of(batch: &'a Batch) -> Self {
        Self {
            id: batch.id,
            tenant: batch.tenant_id,
            total: batch.total,
            done: batch.done,
            dead: batch.dead,
            staged_at: rfc3339_millis(batch.staged_at),
            completed_at: batch.completed_at.map(rfc3339_millis),
            follows: batch.follows(),
            follows_kind: batch.follows_kind(),
        }
    }
}

fn state(batch: &Batch) -> String {
    let complete =
        batch.completed_at.map(|at| format!("complete since {}", time(at.timestamp_millis())));
    complete.unwrap_or_else(|| "in progress".to_owned())
}

/// A batch on one line.
fn summary(batch: &Batch) -> String {
    let (staged, follows) =
        (time(batch.staged_at.timestamp_millis()), printable(batch.follows_kind()));
    let (total, done, dead) = (batch.total, batch.done, batch.dead);
    format!(
        "{staged}  {}  {done} of {total} done  dead={dead}  {}  then {follows}",
        batch.id,
        state(batch)
    )
}

/// Everything that is known of a batch, a line each.
fn whole(batch: &Batch) -> Vec<String> {
    let lines = [
        ("batch", batch.id.to_string()),
        ("state", state(batch)),
        ("tenant", batch.tenant_id.map_or_else(|| "-".to_owned(), |tenant| tenant.to_string())),
        ("jobs", batch.total.to_string()),
        ("done", batch.done.to_string()),
        ("dead", batch.dead.to_string()),
        ("staged", time(batch.staged_at.timestamp_millis())),
        ("follows", format!("{}  {}", batch.follows_kind(), batch.follows())),
    ];
    lines.into_iter().map(|(name, text)| format!("{name:<9} {}", printable(&text))).collect()
}
