//! Commands that compare the database's schema with that of this release, and change it.
//!
//! The changes are the result; what explains them goes to standard error.

use clap::Subcommand;
use common::{
    cli::{self, Output, OutputError},
    clock::rfc3339_millis,
    db::{
        Process, Store,
        schema::{Declaration, Progress, SchemaState, Step},
    },
};
use serde::Serialize;
use serde_json::json;

use super::Desk;

#[derive(Subcommand)]
pub(crate) enum MigrateCommand {
    /// Show which generation of the schema the database has, whether changes are pending, and which
    /// processes are running.
    Status,
    /// List the changes that `up` would make.
    Plan,
    /// Prepare the database for this release. Changes that may break a running older release are
    /// made only when none of its processes is running.
    Up {
        /// Make all changes, whatever processes are running.
        #[arg(long)]
        force: bool,
    },
}

pub(crate) async fn run(desk: &Desk, command: MigrateCommand) -> anyhow::Result<()> {
    match command {
        MigrateCommand::Status => {
            desk.with_any_store(async |store| status(&store, desk.output).await).await
        }
        MigrateCommand::Plan => plan(desk).await,
        MigrateCommand::Up { force } => up(desk, force).await,
    }
}

/// Shows where the database stands and which processes are running.
async fn status(store: &Store, output: Output) -> anyhow::Result<()> {
    let release = domain::schema();
    let plan = store.migration_plan(&release).await?;
    let SchemaState { generation, readable_from } = plan.found;
    let pending = plan.steps.len() + plan.data_changes.len();
    let problem = store.check_schema(release.generation).await.err().map(|error| error.to_string());
    let processes = store.living_processes().await?;
    let verdict = match &problem {
        Some(problem) => format!("this release cannot serve: {problem}"),
        None if pending > 0 => format!("{pending} changes are pending: run `api migrate plan`"),
        None => "no changes are pending".to_owned(),
    };
    let object = json!({
        "database": { "generation": generation, "readable_from": readable_from },
        "release": { "generation": release.generation, "problem": problem },
        "pending_changes": pending,
        "processes": processes.iter().map(ProcessView::of).collect::<Vec<_>>(),
    });
    let mut lines = vec![
        format!("database      schema generation {generation}, readable from {readable_from}"),
        format!("this release  schema generation {}", release.generation),
        verdict,
        String::new(),
        format!(
            "{:<36}  {:<6}  {:<10}  {:>10}  {:<24}  {:<24}  REVISION",
            "PROCESS", "KIND", "VERSION", "GENERATION", "STARTED", "SEEN"
        ),
    ];
    lines.extend(processes.iter().map(|process| ProcessView::of(process).line()));
    Ok(output.show(&object, lines)?)
}

/// A process as it is shown.
#[derive(Serialize)]
struct ProcessView<'a> {
    id: String,
    kind: &'a str,
    version: &'a str,
    generation: i32,
    started_at: String,
    seen_at: String,
    revision: &'a str,
}

impl<'a> ProcessView<'a> {
    fn of(process: &'a Process) -> Self {
        Self {
            id: process.id.to_string(),
            kind: &process.kind,
            version: &process.version,
            generation: process.generation,
            started_at: rfc3339_millis(process.started_at),
            seen_at: rfc3339_millis(process.seen_at),
            revision: &process.revision,
        }
    }

    fn line(&self) -> String {
        let Self { id, kind, version, generation, started_at, seen_at, revision } = self;
        format!(
            "{id:<36}  {kind:<6}  {version:<10}  {generation:>10}  {started_at:<24}  {seen_at:<24}  {revision}"
        )
    }
}

/// Shows what `migrate up` would do.
async fn plan(desk: &Desk) -> anyhow::Result<()> {
    let release = domain::schema();
    let plan = desk.with_any_store(async |store| Ok(store.migration_plan(&release).await?)).await?;
    note_newer(plan.found, &release);
    for step in &plan.steps {
        show_step(desk.output, step)?;
    }
    for change in &plan.data_changes {
        show(desk.output, "data", &format!("{} {}", change.version, change.name))?;
    }
    if plan.steps.is_empty() && plan.data_changes.is_empty() {
        cli::note("nothing to do");
    }
    if plan.steps.iter().any(Step::contracts) {
        note_older(
            "contracting changes are made only after these processes have stopped:",
            &plan.older,
        );
    }
    Ok(())
}

/// Prepares the database for this release.
///
/// # Errors
/// Also if the release cannot serve yet, because a unique index that it relies on was not created.
async fn up(desk: &Desk, is_forced: bool) -> anyhow::Result<()> {
    let release = domain::schema();
    let output = desk.output;
    let progress = |progress: &Progress<'_>| report(output, progress);
    let migrated = desk
        .with_any_store(async |store| {
            Ok(store.migrate_with(&release, is_forced, &progress).await?)
        })
        .await?;
    note_newer(migrated.found, &release);
    if !migrated.held_back.is_empty() {
        cli::note("these changes were not made, because running older processes may fail on them:");
        for step in &migrated.held_back {
            cli::note(&format!("{:<8}  {step}", kind(step)));
        }
        note_older("the older processes:", &migrated.older);
        cli::note(
            "run `api migrate up` again when they have stopped, or `api migrate up --force` now",
        );
    } else if migrated.steps.is_empty() && migrated.data_changes.is_empty() {
        cli::note("nothing to do");
    }
    anyhow::ensure!(
        migrated.is_complete(),
        "this release cannot serve yet: one of these changes is a unique index that it relies on"
    );
    Ok(())
}

/// The migration goes on even if nobody reads about it.
fn report(output: Output, progress: &Progress<'_>) {
    let _ = match progress {
        Progress::Waiting(at_most) => {
            cli::note(&format!(
                "api: waiting for another process that is migrating; if it was killed, this continues within {at_most:?}"
            ));
            Ok(())
        }
        Progress::Step(step) => show_step(output, step),
        Progress::DataChange(name) => show(output, "data", name),
    };
}

fn show_step(output: Output, step: &Step) -> Result<(), OutputError> {
    show(output, kind(step), &step.to_string())
}

const fn kind(step: &Step) -> &'static str {
    if step.contracts() { "contract" } else { "expand" }
}

fn show(output: Output, kind: &str, change: &str) -> Result<(), OutputError> {
    output.show(&json!({ "kind": kind, "change": change }), [format!("{kind:<8}  {change}")])
}

fn note_newer(found: SchemaState, release: &Declaration) {
    if found.generation > release.generation {
        cli::note(&format!(
            "a newer release has prepared the database: it is at schema generation {}, and this release has {}",
            found.generation, release.generation
        ));
    }
}

fn note_older(heading: &str, older: &[Process]) {
    if older.is_empty() {
        return;
    }
    cli::note(heading);
    for process in older {
        cli::note(&format!("  {process}"));
    }
}
