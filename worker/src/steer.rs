//! What an operator sees and does of queues and dead letters, from a shell.

use clap::{Args, Subcommand};
use common::{
    ambient::{Ambient, rfc3339},
    config::Config,
    db::Store,
    id::JobId,
};
use jobs::{DeadFilter, Jobs, Queue, queue::DeadLetter, schedules::ScheduleRow};
use mongodb::bson::DateTime;

use crate::schedules;

/// What to do with dead letters.
#[derive(Subcommand)]
pub(crate) enum JobsCommand {
    /// List dead letters, newest first.
    List {
        #[command(flatten)]
        which: Which,
        /// This many at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show one dead letter with everything that went wrong.
    Show {
        /// The job.
        job: JobId,
        /// Its queue.
        #[arg(long, default_value = "email")]
        queue: Queue,
    },
    /// Give dead letters another try, from their first attempt on.
    Retry {
        #[command(flatten)]
        which: Which,
        /// All of the queue, where nothing narrows them down.
        #[arg(long)]
        all: bool,
        /// Only tell which.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which dead letters; everything given must hold.
#[derive(Args)]
pub(crate) struct Which {
    /// These jobs.
    jobs: Vec<JobId>,
    /// Of this queue.
    #[arg(long, default_value = "email")]
    queue: Queue,
    /// Of this kind, such as `registration.send_verification`.
    #[arg(long)]
    kind: Option<String>,
    /// Whose last error contains this.
    #[arg(long)]
    error: Option<String>,
}

impl Which {
    fn filter(&self) -> DeadFilter {
        DeadFilter { ids: self.jobs.clone(), kind: self.kind.clone(), error: self.error.clone() }
    }
}

/// Shows how every queue stands.
pub(crate) async fn queues(config: &Config) -> anyhow::Result<()> {
    let jobs = connect(config).await?;
    println!("{:<12} {:>10} {:>10} {:>10} {:>10} {:>12}", "queue", "ready", "running", "delayed", "dead", "oldest");
    for queue in Queue::ALL {
        let stats = jobs.broker().stats(*queue).await?;
        let oldest = format!("{:.1} s", stats.oldest_age.as_secs_f64());
        println!("{queue:<12} {:>10} {:>10} {:>10} {:>10} {oldest:>12}", stats.ready, stats.running, stats.delayed, stats.dead);
    }
    Ok(())
}

/// Shows every schedule with its last and its next tick.
pub(crate) async fn schedules(config: &Config) -> anyhow::Result<()> {
    let store = Store::connect(&config.mongodb, Ambient::system()).await?;
    let (now, time) = (store.ambient().now(), |tick: Option<DateTime>| tick.map_or_else(|| "-".to_owned(), rfc3339));
    println!("{:<24} {:<16} {:<18} {:<20} next tick", "schedule", "cron (UTC)", "missed ticks", "last tick");
    for schedule in schedules::schedules()? {
        let last = ScheduleRow::of(&store, &schedule).await?.and_then(|row| row.last_tick);
        let (name, cron, missed) = (schedule.name(), schedule.cron().to_string(), schedule.missed().to_string());
        println!("{name:<24} {cron:<16} {missed:<18} {:<20} {}", time(last), time(schedule.cron().next_after(now)));
    }
    Ok(())
}

/// Lists, shows or retries dead letters.
pub(crate) async fn jobs(config: &Config, command: JobsCommand) -> anyhow::Result<()> {
    let jobs = connect(config).await?;
    match command {
        JobsCommand::List { which, limit } => {
            for letter in jobs.dead_letters(which.queue, &which.filter(), limit).await? {
                println!("{}", line(&letter));
            }
        }
        JobsCommand::Show { job, queue } => {
            let filter = DeadFilter { ids: vec![job], ..DeadFilter::default() };
            let found = jobs.dead_letters(queue, &filter, 1).await?;
            let letter = found.first().ok_or_else(|| anyhow::anyhow!("{job} is not among the dead letters of {queue}"))?;
            println!("{}", serde_json::to_string_pretty(letter)?);
        }
        JobsCommand::Retry { which, all, dry_run } => {
            let filter = which.filter();
            anyhow::ensure!(all || filter != DeadFilter::default(), "say which: jobs, --kind, --error, or --all of the queue");
            let letters = jobs.dead_letters(which.queue, &filter, usize::MAX).await?;
            if dry_run {
                for letter in &letters {
                    println!("{}", line(letter));
                }
                println!("{} would be tried again", letters.iter().filter(|letter| letter.envelope.is_some()).count());
                return Ok(());
            }
            println!("{} will be tried again", jobs.replay(which.queue, &letters).await?);
        }
    }
    Ok(())
}

fn line(letter: &DeadLetter) -> String {
    let id = letter.id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let (died, kind) = (rfc3339(DateTime::from_millis(letter.died_at)), letter.kind.as_deref().unwrap_or("-"));
    format!("{died}  {id}  {kind}  attempts={}  {}", letter.failures.len(), letter.error.replace(['\n', '\r'], " "))
}

async fn connect(config: &Config) -> anyhow::Result<Jobs> {
    let store = Store::connect(&config.mongodb, Ambient::system()).await?;
    Ok(Jobs::start(store, &config.redis, &config.jobs)?)
}
