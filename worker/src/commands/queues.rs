//! `worker queues`: inspecting, pausing and resuming queues.

use anyhow::Context;
use clap::Subcommand;
use common::origin::Reason;
use domain::{platform::job_control::JobControl, queues};
use jobs::{Paused, Queue, QueueDetails, QueueView};
use serde_json::json;

use super::{
    Desk,
    arguments::queue,
    text::{span, time},
};

/// Commands for queues.
#[derive(Subcommand, Default)]
pub(crate) enum QueuesCommand {
    /// Show the state of every queue (the default).
    #[default]
    List,
    /// Show one queue: its counts, its outbox and its consumers.
    Stats {
        /// Name of the queue.
        #[arg(value_parser = queue())]
        queue: Queue,
    },
    /// Stop all workers from starting jobs of a queue; running jobs continue.
    Pause {
        /// Name of the queue.
        #[arg(value_parser = queue())]
        queue: Queue,
        /// Reason, which is shown to other operators and recorded in the audit log.
        #[arg(long)]
        reason: Reason,
    },
    /// Resume a paused queue.
    Resume {
        /// Name of the queue.
        #[arg(value_parser = queue())]
        queue: Queue,
        /// Reason, which is recorded in the audit log.
        #[arg(long)]
        reason: Option<Reason>,
    },
}

pub(super) async fn run(desk: &Desk<'_>, command: QueuesCommand) -> anyhow::Result<()> {
    match command {
        QueuesCommand::List => list(desk).await,
        QueuesCommand::Stats { queue } => {
            let details = desk.jobs.queue_details(queue).await?;
            Ok(desk.output.show(&details, whole(&details))?)
        }
        QueuesCommand::Pause { queue, reason } => pause(desk, queue, &reason).await,
        QueuesCommand::Resume { queue, reason } => resume(desk, queue, reason.as_ref()).await,
    }
}

async fn pause(desk: &Desk<'_>, queue: Queue, reason: &Reason) -> anyhow::Result<()> {
    if desk.jobs.paused(queue).await?.is_none() {
        desk.record(JobControl::Pause, queue, &[], Some(reason)).await?;
    }
    let before = desk.jobs.pause(queue, &reason.to_string()).await.with_context(|| {
        format!("{queue} may be paused already, without its workers knowing; pause it again")
    })?;
    let object = json!({ "queue": queue, "paused": true, "changed": before.is_none() });
    let message = match before {
        None => format!("{queue} is paused: {reason}"),
        Some(before) => {
            let since = time(before.paused_at.timestamp_millis());
            format!("{queue} has been paused since {since}: {}; nothing changed", before.reason)
        }
    };
    Ok(desk.output.show(&object, [message])?)
}

async fn resume(desk: &Desk<'_>, queue: Queue, reason: Option<&Reason>) -> anyhow::Result<()> {
    if desk.jobs.paused(queue).await?.is_some() {
        desk.record(JobControl::Resume, queue, &[], reason).await?;
    }
    let was_paused = desk.jobs.resume(queue).await?;
    let object = json!({ "queue": queue, "paused": false, "changed": was_paused });
    let message = format!("{queue} {}", if was_paused { "is resumed" } else { "was not paused" });
    Ok(desk.output.show(&object, [message])?)
}

/// The columns of the table, with the numbers of `view`.
fn columns(view: &QueueView) -> [(&'static str, u64); 7] {
    [
        ("ready", view.ready),
        ("running", view.running),
        ("held", view.held),
        ("retrying", view.retrying),
        ("scheduled", view.scheduled),
        ("due", view.due),
        ("dead", view.dead),
    ]
}

async fn list(desk: &Desk<'_>) -> anyhow::Result<()> {
    let mut views = Vec::with_capacity(queues::ALL.len());
    for queue in queues::ALL {
        views.push(desk.jobs.queue(*queue).await?);
    }
    let mut list = desk.output.list(views.first().map(heading));
    for view in &views {
        list.row(view, &row(view))?;
    }
    list.end("there are no queues");
    Ok(())
}

fn heading(view: &QueueView) -> String {
    let names = columns(view).map(|(name, _)| format!("{name:>9}")).join(" ");
    format!("{:<12} {names} {:>9}  state", "queue", "oldest")
}

fn row(view: &QueueView) -> String {
    let numbers = columns(view).map(|(_, number)| format!("{number:>9}")).join(" ");
    let (oldest, state) = (span(view.oldest_ms), state(view.paused.as_ref()));
    format!("{:<12} {numbers} {oldest:>9}  {state}", view.queue)
}

fn state(paused: Option<&Paused>) -> String {
    paused.map_or_else(
        || "active".to_owned(),
        |paused| format!("paused since {}: {}", time(paused.since), paused.reason),
    )
}

/// All details of a queue, one per line.
fn whole(details: &QueueDetails) -> Vec<String> {
    let view = &details.view;
    let mut lines = vec![format!("{:<10} {}", view.queue, state(view.paused.as_ref()))];
    let numbers = columns(view).into_iter().chain([("outbox", details.outbox)]);
    lines.extend(numbers.map(|(name, number)| format!("{name:<10} {number}")));
    lines.push(format!("{:<10} {}", "oldest", span(view.oldest_ms)));
    lines.extend(details.consumers.iter().map(|consumer| {
        let (name, running, silence) =
            (&consumer.name, consumer.running, span(consumer.silence_ms));
        format!("{:<10} {name}  running={running}  last seen {silence} ago", "consumer")
    }));
    lines
}
