//! `worker queues`: inspecting, pausing and resuming queues.

use clap::Subcommand;
use domain::queues;
use jobs::{Jobs, Paused, Queue, QueueDetails, QueueView};

use super::{
    arguments::{queue, reason},
    say,
    text::{json, printable, span, time},
};

/// Commands for queues.
#[derive(Subcommand)]
pub(crate) enum QueuesCommand {
    /// Show the state of every queue (the default).
    List {
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Show one queue: its counts, its outbox and its consumers.
    Stats {
        /// Name of the queue.
        #[arg(value_parser = queue())]
        queue: Queue,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Stop all workers from starting jobs of a queue; running jobs continue.
    Pause {
        /// Name of the queue.
        #[arg(value_parser = queue())]
        queue: Queue,
        /// The reason, for other operators.
        #[arg(long, value_parser = reason)]
        reason: String,
    },
    /// Resume a paused queue.
    Resume {
        /// Name of the queue.
        #[arg(value_parser = queue())]
        queue: Queue,
    },
}

impl Default for QueuesCommand {
    fn default() -> Self {
        Self::List { json: false }
    }
}

pub(super) async fn run(jobs: &Jobs, command: QueuesCommand) -> anyhow::Result<()> {
    match command {
        QueuesCommand::List { json } => list(jobs, json).await,
        QueuesCommand::Stats { queue, json: as_json } => {
            let details = jobs.queue_details(queue).await?;
            if as_json { Ok(say(&json(&details)?)?) } else { show(&details) }
        }
        QueuesCommand::Pause { queue, reason } => pause(jobs, queue, &reason).await,
        QueuesCommand::Resume { queue } => {
            let was_paused = jobs.resume(queue).await?;
            Ok(say(&format!(
                "{queue} {}",
                if was_paused { "is resumed" } else { "was not paused" }
            ))?)
        }
    }
}

async fn pause(jobs: &Jobs, queue: Queue, reason: &str) -> anyhow::Result<()> {
    let message = match jobs.pause(queue, reason).await? {
        None => format!("{queue} is paused: {}", printable(reason)),
        Some(before) => {
            let since = time(before.paused_at.timestamp_millis());
            format!(
                "{queue} was already paused since {since}: {}; nothing changed",
                printable(&before.reason)
            )
        }
    };
    Ok(say(&message)?)
}

async fn list(jobs: &Jobs, as_json: bool) -> anyhow::Result<()> {
    let mut views = Vec::with_capacity(queues::ALL.len());
    for queue in queues::ALL {
        views.push(jobs.queue(*queue).await?);
    }
    if !as_json {
        let columns = ["ready", "running", "held", "delayed", "dead", "oldest"];
        say(&format!(
            "{:<12} {}  state",
            "queue",
            columns.map(|name| format!("{name:>9}")).join(" ")
        ))?;
    }
    for view in &views {
        say(&if as_json { json(view)? } else { row(view) })?;
    }
    Ok(())
}

fn row(view: &QueueView) -> String {
    let numbers = [view.ready, view.running, view.held, view.delayed, view.dead]
        .map(|number| format!("{number:>9}"));
    format!(
        "{:<12} {} {:>9}  {}",
        view.queue,
        numbers.join(" "),
        span(view.oldest_ms),
        state(view.paused.as_ref())
    )
}

fn state(paused: Option<&Paused>) -> String {
    paused.map_or_else(
        || "active".to_owned(),
        |paused| format!("paused since {}: {}", time(paused.since), printable(&paused.reason)),
    )
}

fn show(details: &QueueDetails) -> anyhow::Result<()> {
    let view = &details.view;
    let numbers = [
        ("ready", view.ready),
        ("running", view.running),
        ("held", view.held),
        ("delayed", view.delayed),
        ("dead", view.dead),
        ("outbox", details.outbox),
    ];
    say(&format!("{:<10} {}", view.queue, state(view.paused.as_ref())))?;
    for (name, number) in numbers {
        say(&format!("{name:<10} {number}"))?;
    }
    say(&format!("{:<10} {}", "oldest", span(view.oldest_ms)))?;
    for consumer in &details.consumers {
        let (name, silence) = (printable(&consumer.name), span(consumer.silence_ms));
        say(&format!(
            "{:<10} {name}  running={}  last seen {silence} ago",
            "consumer", consumer.running
        ))?;
    }
    Ok(())
}
