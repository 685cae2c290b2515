//! `worker batches`: the progress of jobs that were staged together.

use anyhow::Context;
use clap::{Subcommand, builder::RangedU64ValueParser};
use common::{
    cli,
    clock::rfc3339_millis,
    id::{BatchId, JobId, TenantId},
};
use jobs::batches::{BATCHES_MAX, Batch};
use serde::Serialize;

use super::{Desk, text::time};

/// Commands for batches.
#[derive(Subcommand)]
pub(crate) enum BatchesCommand {
    /// List batches: those in progress, newest first, then complete ones, latest completion first.
    List {
        /// Maximum number of batches.
        #[arg(long, default_value_t = 50, value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(BATCHES_MAX)))]
        limit: u32,
    },
    /// Show one batch and its follow-up job.
    Show {
        /// Id of the batch.
        batch: BatchId,
    },
}

pub(super) async fn run(desk: &Desk<'_>, command: BatchesCommand) -> anyhow::Result<()> {
    match command {
        BatchesCommand::List { limit } => list(desk, limit).await,
        BatchesCommand::Show { batch } => show(desk, batch).await,
    }
}

async fn list(desk: &Desk<'_>, limit: u32) -> anyhow::Result<()> {
    let mut list = desk.output.list(None);
    for batch in desk.jobs.batches(limit).await? {
        list.row(&BatchView::of(&batch), &summary(&batch))?;
    }
    if list.rows() >= limit as usize {
        cli::note(&format!("{limit} shown; there may be more, see --limit"));
    }
    list.end("there are no batches");
    Ok(())
}

async fn show(desk: &Desk<'_>, id: BatchId) -> anyhow::Result<()> {
    let found = desk.jobs.batch(id).await?;
    let batch = found.with_context(|| {
        format!("batch {id} not found: it expired after it completed, or never existed")
    })?;
    Ok(desk.output.show(&BatchView::of(&batch), whole(&batch))?)
}

/// A batch as JSON.
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
    let (staged, follows) = (time(batch.staged_at.timestamp_millis()), batch.follows_kind());
    let (total, done, dead) = (batch.total, batch.done, batch.dead);
    format!(
        "{staged}  {}  {done} of {total} done  dead={dead}  {}  then {follows}",
        batch.id,
        state(batch)
    )
}

/// All details of a batch, one per line.
fn whole(batch: &Batch) -> Vec<String> {
    let lines = [
        ("batch", batch.id.to_string()),
        ("state", state(batch)),
        ("tenant", batch.tenant_id.map_or_else(|| "-".to_owned(), |tenant| tenant.to_string())),
        ("jobs", batch.total.to_string()),
        ("done", batch.done.to_string()),
        ("dead", batch.dead.to_string()),
        ("staged", time(batch.staged_at.timestamp_millis())),
        ("follow-up", format!("{}  {}", batch.follows_kind(), batch.follows())),
    ];
    lines.into_iter().map(|(name, text)| format!("{name:<9} {text}")).collect()
}
