//! Preparing a database for a release, and whether a process may work with it.

use std::{convert::Infallible, time::Duration};

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
        let mut older = Vec::new();
        // No process can use an empty database.
        if found != SchemaState::default() {
            older = self.living_processes().await?;
            older.retain(|process| process.generation < declaration.generation);
        }
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
    /// [`DbError::OlderProcesses`] if a data change would break a running process.
    pub async fn migrate(&self, declaration: &Declaration) -> Result<Migrated, DbError> {
        self.migrate_with(declaration, false).await
    }

    /// As [`Store::migrate`], but ignores running processes.
    ///
    /// # Errors
    /// [`DbError::NewerSchema`] if this release cannot work with the database.
    pub async fn migrate_forced(&self, declaration: &Declaration) -> Result<Migrated, DbError> {
        self.migrate_with(declaration, true).await
    }

    async fn migrate_with(
        &self,
        declaration: &Declaration,
        is_forced: bool,
    ) -> Result<Migrated, DbError> {
        let holder = self.clock().uuid().to_string();
        while !Lease::acquire(self, LEASE_NAME, &holder, LEASE_TTL).await? {
            tracing::info!("migrations_locked_by_another_process");
            tokio::time::sleep(LEASE_PAUSE).await;
        }
        let migrated = tokio::select! {
            migrated = self.migrate_holding(declaration, is_forced) => migrated,
            never = self.keep_lease(&holder) => match never {},
        };
        Lease::release(self, LEASE_NAME, &holder).await?;
        migrated
    }

    /// A large index takes longer to build than a lease lasts.
    async fn keep_lease(&self, holder: &str) -> Infallible {
        loop {
            tokio::time::sleep(LEASE_TTL / 3).await;
            if let Err(error) = Lease::acquire(self, LEASE_NAME, holder, LEASE_TTL).await {
                tracing::warn!(%error, "migrations_lease_not_renewed");
            }
        }
    }

    async fn migrate_holding(
        &self,
        declaration: &Declaration,
        is_forced: bool,
    ) -> Result<Migrated, DbError> {
        let Plan { found, steps, data_changes, older } = self.migration_plan(declaration).await?;
        refuse_too_new(found, declaration.generation)?;
        if found.generation > declaration.generation {
            let (data_changes, held_back) = (vec![], vec![]);
            return Ok(Migrated { found, steps, data_changes, held_back, older });
        }
        let is_alone = is_forced || older.is_empty();
        if !is_alone {
            refuse_breaking(&data_changes, &older)?;
        }
        let (contracting, mut steps): (Vec<_>, Vec<_>) =
            steps.into_iter().partition(Step::contracts);
        self.carry_out(&steps).await?;
        for change in &data_changes {
            self.apply(found, change).await?;
        }
        let mut state = SchemaState {
            generation: declaration.generation,
            readable_from: data_changes
                .iter()
                .map(|change| change.readable_from)
                .fold(found.readable_from, i32::max),
        };
        let mut held_back = Vec::new();
        if is_alone {
            state.readable_from = state.readable_from.max(declaration.readable_from);
            if !contracting.is_empty() {
                self.raise_readable_from(found, state.readable_from).await?;
            }
            self.carry_out(&contracting).await?;
            steps.extend(contracting);
        } else {
            held_back = contracting;
        }
        if state != found {
            self.record(state).await?;
        }
        let data_changes = data_changes.iter().map(|change| change.name).collect();
        Ok(Migrated { found, steps, data_changes, held_back, older })
    }

    async fn apply(&self, found: SchemaState, change: &DataChange) -> Result<(), DbError> {
        // An older release may fail even while it is incomplete.
        self.raise_readable_from(found, change.readable_from).await?;
        tracing::info!(version = change.version, name = change.name, "data_change_started");
        (change.code)(self).await?;
        let row = Applied {
            version: change.version,
            name: change.name.to_owned(),
            at: self.clock().now(),
        };
        self.records::<Applied>(PlatformScope).insert_missing(&[row]).await
    }

    /// Prevents releases that could not work with the changed data from starting.
    async fn raise_readable_from(&self, found: SchemaState, to: i32) -> Result<(), DbError> {
        if to <= found.readable_from {
            return Ok(());
        }
        self.record(SchemaState { readable_from: to, ..found }).await
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
