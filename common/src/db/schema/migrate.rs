//! Preparing a database for a release, and whether a process may work with it.

use std::time::Duration;

use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use super::{DataChange, Declaration, Step};
use crate::db::{Data, DbError, Lease, PlatformScope, Process, Record, Store};

/// How long a migrating process may stop responding before another one takes over.
const LEASE_TTL: Duration = Duration::from_mins(1);
const LEASE_NAME: &str = "migrations";
/// How often a waiting process checks whether another one has finished migrating.
const LEASE_PAUSE: Duration = Duration::from_millis(500);

/// The state of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchemaState {
    /// The generation of the declaration that it was last prepared for; 0 for an empty database.
    pub generation: i32,
    /// The oldest generation whose release can work with it.
    pub readable_from: i32,
}

/// The one row that holds the state.
#[derive(Debug, Serialize, Deserialize)]
struct StateRow {
    #[serde(rename = "_id")]
    name: String,
    generation: i32,
    readable_from: i32,
    changed_at: DateTime,
}

impl StateRow {
    const NAME: &str = "schema";
}

impl Record for StateRow {
    const COLLECTION: &'static str = "schema";
    const DATA: Data = Data::of_platform();
}

/// A data change that was carried out. Up to number 39 they are the numbered migrations that came
/// before the declared schema.
#[derive(Debug, Serialize, Deserialize)]
struct Applied {
    #[serde(rename = "_id")]
    version: i32,
    name: String,
    at: DateTime,
}

impl Record for Applied {
    const COLLECTION: &'static str = "migrations";
    const DATA: Data = Data::of_platform();
}

/// The difference between a database and a declaration.
#[derive(Clone)]
pub struct Plan {
    /// The state of the database.
    pub found: SchemaState,
    /// The steps of the schema; none if the database is of a newer generation.
    pub steps: Vec<Step>,
    /// The data changes that were not carried out yet, in order.
    pub data_changes: Vec<DataChange>,
    /// The running processes of an older generation, which contracting changes wait for.
    pub older: Vec<Process>,
}

/// What [`Store::migrate`] did.
#[derive(Debug, Clone)]
pub struct Migrated {
    /// The previous state of the database.
    pub found: SchemaState,
    /// The steps that were carried out.
    pub steps: Vec<Step>,
    /// The names of the data changes that were carried out.
    pub data_changes: Vec<&'static str>,
    /// The contracting steps that were not carried out because of `older`.
    pub held_back: Vec<Step>,
    /// The running processes of an older generation.
    pub older: Vec<Process>,
}

impl Migrated {
    /// Whether the release can serve: every index that it relies on exists.
    pub fn is_complete(&self) -> bool {
        !self.held_back.iter().any(Step::is_required)
    }
}

/// A part of a migration that is done, or why it has not begun.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Another process is migrating. If it was killed, this one continues after the given time.
    Waiting(Duration),
    /// A step of the schema was carried out.
    Step(&'a Step),
    /// The data change of this name was carried out.
    DataChange(&'static str),
}

/// Receives the progress of a migration.
pub type Report<'a> = &'a (dyn Fn(&Progress<'_>) + Sync);

impl Store {
    /// Where the database stands.
    pub async fn schema_state(&self) -> Result<SchemaState, DbError> {
        let row = self.records::<StateRow>(PlatformScope).find(doc! { "_id": StateRow::NAME });
        if let Some(StateRow { generation, readable_from, .. }) = row.await? {
            return Ok(SchemaState { generation, readable_from });
        }
        let applied = self.records::<Applied>(PlatformScope);
        let newest = applied.find_first(doc! {}, doc! { "_id": -1 }).await?;
        let generation = newest.map_or(0, |applied| applied.version);
        Ok(SchemaState { generation, readable_from: 0 })
    }

    /// Succeeds if a process of this generation can work with the database.
    ///
    /// # Errors
    /// [`DbError::OlderSchema`] or [`DbError::NewerSchema`] if it cannot.
    pub async fn check_schema(&self, generation: i32) -> Result<(), DbError> {
        let found = self.schema_state().await?;
        refuse_too_new(found, generation)?;
        if found.generation < generation {
            return Err(DbError::OlderSchema { found: found.generation, known: generation });
        }
        Ok(())
    }

    /// What [`Store::migrate`] would do.
    pub async fn migration_plan(&self, declaration: &Declaration) -> Result<Plan, DbError> {
        let found = self.schema_state().await?;
        if found.generation > declaration.generation {
            return Ok(Plan { found, steps: vec![], data_changes: vec![], older: vec![] });
        }
        let steps = self.steps(&declaration.collections).await?;
        let older = self.older_processes(found, declaration).await?;
        let data_changes = self.pending(declaration.data_changes).await?;
        Ok(Plan { found, steps, data_changes, older })
    }

    async fn pending(&self, known: &[DataChange]) -> Result<Vec<DataChange>, DbError> {
        let Some(last) = known.last() else { return Ok(vec![]) };
        let of_known = doc! { "_id": { "$lte": last.version } };
        let applied = self.records::<Applied>(PlatformScope);
        let applied = applied.list(of_known, doc! { "_id": 1 }, i64::from(last.version)).await?;
        let is_pending = |change: &&DataChange| {
            applied.binary_search_by_key(&change.version, |row| row.version).is_err()
        };
        Ok(known.iter().filter(is_pending).copied().collect())
    }

    /// Prepares the database for the release that declares `declaration`: expands the schema,
    /// carries out the data changes, and then contracts the schema unless processes of an older
    /// generation are running. Changes nothing if the database is of a newer generation.
    ///
    /// Waits while another process migrates. The next call completes an interrupted migration.
    ///
    /// # Errors
    /// [`DbError::NewerSchema`] if this release cannot work with the database,
    /// [`DbError::OlderProcesses`] if a data change would break a running process,
    /// [`DbError::NotUnique`] if stored rows violate a new unique index,
    /// [`DbError::LeaseLost`] if another process took over.
    pub async fn migrate(&self, declaration: &Declaration) -> Result<Migrated, DbError> {
        self.migrate_with(declaration, false, &|_| ()).await
    }

    /// As [`Store::migrate`], but ignores running processes if `is_forced`, and reports its
    /// progress.
    pub async fn migrate_with(
        &self,
        declaration: &Declaration,
        is_forced: bool,
        report: Report<'_>,
    ) -> Result<Migrated, DbError> {
        let holder = self.clock().uuid().to_string();
        let mut has_waited = false;
        while !Lease::acquire(self, LEASE_NAME, &holder, LEASE_TTL).await? {
            if !has_waited {
                tracing::info!("migrations_locked_by_another_process");
                report(&Progress::Waiting(LEASE_TTL));
                has_waited = true;
            }
            tokio::time::sleep(LEASE_PAUSE).await;
        }
        let migrated = tokio::select! {
            migrated = self.migrate_holding(declaration, is_forced, report) => migrated,
            // A large index takes longer to build than a lease lasts.
            lost = Lease::keep(self, LEASE_NAME, &holder, LEASE_TTL) => Err(lost),
        };
        Lease::release(self, LEASE_NAME, &holder).await?;
        migrated
    }

    async fn migrate_holding(
        &self,
        declaration: &Declaration,
        is_forced: bool,
        report: Report<'_>,
    ) -> Result<Migrated, DbError> {
        let Plan { found, steps, data_changes, mut older } =
            self.migration_plan(declaration).await?;
        refuse_too_new(found, declaration.generation)?;
        if found.generation > declaration.generation {
            let (data_changes, held_back) = (vec![], vec![]);
            return Ok(Migrated { found, steps, data_changes, held_back, older });
        }
        if !is_forced {
            refuse_breaking(&data_changes, &older)?;
        }
        let (mut held_back, mut steps): (Vec<_>, Vec<_>) =
            steps.into_iter().partition(Step::contracts);
        self.carry_out(&steps, report).await?;
        let mut state = found;
        for change in &data_changes {
            // An older release may fail even while the change is incomplete.
            state.readable_from = state.readable_from.max(change.readable_from);
            older = self.fence(found, state, declaration).await?;
            if !is_forced {
                refuse_breaking(std::slice::from_ref(change), &older)?;
            }
            self.apply(change).await?;
            report(&Progress::DataChange(change.name));
        }
        if is_forced || older.is_empty() {
            self.refuse_duplicates(&held_back).await?;
            state.readable_from = state.readable_from.max(declaration.readable_from);
            if !held_back.is_empty() {
                older = self.fence(found, state, declaration).await?;
            }
        }
        if is_forced || older.is_empty() {
            self.carry_out(&held_back, report).await?;
            steps.append(&mut held_back);
        }
        if !held_back.iter().any(Step::is_required) {
            state.generation = declaration.generation;
        }
        if state != found {
            self.record(state).await?;
        }
        let data_changes = data_changes.iter().map(|change| change.name).collect();
        Ok(Migrated { found, steps, data_changes, held_back, older })
    }

    /// Prevents releases that cannot work with `state` from starting, and then returns the older
    /// processes that are running. A process registers before it checks the schema
    /// ([`Heartbeat`](crate::db::Heartbeat)), so none is missed.
    async fn fence(
        &self,
        found: SchemaState,
        state: SchemaState,
        declaration: &Declaration,
    ) -> Result<Vec<Process>, DbError> {
        if state.readable_from > found.readable_from {
            self.record(state).await?;
        }
        self.older_processes(found, declaration).await
    }

    /// The running processes of a generation before `declaration`.
    async fn older_processes(
        &self,
        found: SchemaState,
        declaration: &Declaration,
    ) -> Result<Vec<Process>, DbError> {
        // No process can use an empty database.
        if found == SchemaState::default() {
            return Ok(vec![]);
        }
        let mut older = self.living_processes().await?;
        older.retain(|process| process.generation < declaration.generation);
        Ok(older)
    }

    async fn apply(&self, change: &DataChange) -> Result<(), DbError> {
        tracing::info!(version = change.version, name = change.name, "data_change_started");
        (change.code)(self).await?;
        let row = Applied {
            version: change.version,
            name: change.name.to_owned(),
            at: self.clock().now(),
        };
        self.records::<Applied>(PlatformScope).insert_missing(&[row]).await
    }

    async fn record(&self, state: SchemaState) -> Result<(), DbError> {
        let update = doc! {
            "$max": { "generation": state.generation, "readable_from": state.readable_from },
            "$set": { "changed_at": self.clock().now() },
        };
        let rows = self.records::<StateRow>(PlatformScope);
        rows.upsert(doc! { "_id": StateRow::NAME }, update).await
    }
}

/// Fails for a database that releases of this generation cannot work with any more.
fn refuse_too_new(found: SchemaState, generation: i32) -> Result<(), DbError> {
    if generation < found.readable_from {
        return Err(DbError::NewerSchema { readable_from: found.readable_from, known: generation });
    }
    Ok(())
}

/// Fails for data changes whose result a running process could not work with.
fn refuse_breaking(changes: &[DataChange], older: &[Process]) -> Result<(), DbError> {
    for change in changes {
        let broken: Vec<String> = older
            .iter()
            .filter(|process| process.generation < change.readable_from)
            .map(Process::to_string)
            .collect();
        if !broken.is_empty() {
            return Err(DbError::OlderProcesses {
                change: change.name,
                processes: broken.join(", "),
            });
        }
    }
    Ok(())
}
