//! The schema's versions: indexes and changes of shape, applied once and in order.
//!
//! A migration only expands (adds an index, a collection, a field); contracting comes in a later
//! release, once no process of the old one runs. Each is idempotent, so one that was cut short is
//! simply run again; a lease keeps two processes from running them at once.

use std::{future::Future, pin::Pin, time::Duration};

use mongodb::{
    bson::{DateTime, Document, doc},
    error::ErrorKind,
};
use serde::{Deserialize, Serialize};

use super::{DbError, Lease, PlatformOwned, PlatformScope, Record, Store, schema::Validator};

/// How long a migrating process may fall silent before another takes over.
const LEASE_TTL: Duration = Duration::from_mins(1);
const LEASE_NAME: &str = "migrations";

/// One index of a collection.
#[derive(Debug, Clone, Copy)]
pub struct IndexPlan {
    /// The collection.
    pub collection: &'static str,
    /// Its name, also what [`DbError::Duplicate`] tells.
    pub name: &'static str,
    /// Fields, each with 1 or -1.
    pub keys: &'static [(&'static str, i32)],
    /// Refuses a second row with the same key.
    pub unique: bool,
    /// Rows vanish once the indexed time has passed. MongoDB does that about once a minute, so
    /// every reader checks the time as well.
    pub ttl: bool,
}

/// A migration's code at work.
pub type Applying<'s> = Pin<Box<dyn Future<Output = Result<(), DbError>> + Send + 's>>;

/// What one version does.
#[derive(Clone, Copy)]
pub enum Plan {
    /// Creates indexes.
    Indexes(&'static [IndexPlan]),
    /// Says what rows look like; a row that does not is refused from then on.
    Validators(&'static [Validator]),
    /// Runs code; must be idempotent.
    Code(for<'s> fn(&'s Store) -> Applying<'s>),
    /// Lets rows vanish so much later than the time that a TTL index names; each index by its
    /// collection and name.
    Linger(&'static [(&'static str, &'static str)], Duration),
    /// Carries out others, in order.
    Several(&'static [Self]),
}

/// The server's error code for a collection that is there already.
const NAMESPACE_EXISTS: i32 = 48;

/// One version of the schema.
#[derive(Clone, Copy)]
pub struct Migration {
    /// Counts from 1 without gaps.
    pub version: i32,
    /// What it is for.
    pub name: &'static str,
    /// What it does.
    pub plan: Plan,
}

/// A version that was applied.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Applied {
    #[serde(rename = "_id")]
    version: i32,
    name: String,
    at: DateTime,
}

impl Record for Applied {
    const COLLECTION: &'static str = "migrations";
}
impl PlatformOwned for Applied {}

/// One line of `api migrate status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// The version.
    pub version: i32,
    /// What it is for.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
}

impl Store {
    /// Where the database stands against `known`.
    ///
    /// # Errors
    /// When the store fails or is newer than `known`.
    pub async fn migration_status(
        &self,
        known: &[Migration],
    ) -> Result<Vec<MigrationStatus>, DbError> {
        let found = self.schema_version().await?;
        refuse_newer(found, known)?;
        let status = |migration: &Migration| MigrationStatus {
            version: migration.version,
            name: migration.name.to_owned(),
            applied: migration.version <= found,
        };
        Ok(known.iter().map(status).collect())
    }

    /// Applies what the database lacks; answers the names of what was applied. Answers nothing
    /// applied while another process is at it.
    ///
    /// # Errors
    /// When the store fails or is newer than `known`.
    pub async fn migrate(&self, known: &[Migration]) -> Result<Vec<&'static str>, DbError> {
        let holder = self.clock().uuid().to_string();
        while !Lease::acquire(self, LEASE_NAME, &holder, LEASE_TTL).await? {
            tracing::info!("migrations_wait_for_another_process");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let applied = self.migrate_holding(known, &holder).await;
        Lease::release(self, LEASE_NAME, &holder).await?;
        applied
    }

    async fn migrate_holding(
        &self,
        known: &[Migration],
        holder: &str,
    ) -> Result<Vec<&'static str>, DbError> {
        let found = self.schema_version().await?;
        refuse_newer(found, known)?;
        let mut names = Vec::new();
        for migration in known.iter().filter(|migration| migration.version > found) {
            Lease::acquire(self, LEASE_NAME, holder, LEASE_TTL).await?;
            tracing::info!(version = migration.version, name = migration.name, "migration_started");
            self.carry_out(migration.plan).await?;
            let row = Applied {
                version: migration.version,
                name: migration.name.to_owned(),
                at: self.clock().now(),
            };
            self.records::<Applied>(PlatformScope).insert_missing(&[row]).await?;
            names.push(migration.name);
        }
        Ok(names)
    }

    async fn carry_out(&self, plan: Plan) -> Result<(), DbError> {
        match plan {
            Plan::Indexes(indexes) => self.create_indexes(indexes).await,
            Plan::Validators(validators) => self.set_validators(validators).await,
            Plan::Code(code) => code(self).await,
            Plan::Linger(indexes, span) => self.let_linger(indexes, span).await,
            Plan::Several(plans) => {
                for plan in plans {
                    Box::pin(self.carry_out(*plan)).await?;
                }
                Ok(())
            }
        }
    }

    /// Ok when the database is exactly at the newest of `known`, so that a process may serve.
    ///
    /// # Errors
    /// When it is older or newer.
    pub async fn check_schema(&self, known: &[Migration]) -> Result<(), DbError> {
        let found = self.schema_version().await?;
        refuse_newer(found, known)?;
        let newest = newest(known);
        if found < newest { Err(DbError::OlderSchema { found, known: newest }) } else { Ok(()) }
    }

    async fn schema_version(&self) -> Result<i32, DbError> {
        let newest =
            self.records::<Applied>(PlatformScope).find_first(doc! {}, doc! { "_id": -1 }).await?;
        Ok(newest.map_or(0, |applied| applied.version))
    }

    async fn create_indexes(&self, indexes: &[IndexPlan]) -> Result<(), DbError> {
        for index in indexes {
            let keys: Document = index
                .keys
                .iter()
                .map(|(field, order)| ((*field).to_owned(), (*order).into()))
                .collect();
            let mut spec = doc! { "name": index.name, "key": keys, "unique": index.unique };
            if index.ttl {
                spec.insert("expireAfterSeconds", 0);
            }
            self.command(doc! { "createIndexes": index.collection, "indexes": [spec] }).await?;
        }
        Ok(())
    }

    async fn let_linger(&self, indexes: &[(&str, &str)], span: Duration) -> Result<(), DbError> {
        let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        for (collection, name) in indexes {
            self.command(doc! { "collMod": collection, "index": { "name": name, "expireAfterSeconds": seconds } }).await?;
        }
        Ok(())
    }

    async fn set_validators(&self, validators: &[Validator]) -> Result<(), DbError> {
        for validator in validators {
            self.create_collection(validator.collection).await?;
            // `moderate` leaves alone rows that were there before.
            let command = doc! { "collMod": validator.collection, "validator": validator.json_schema(), "validationLevel": "moderate" };
            self.command(command).await?;
        }
        Ok(())
    }

    /// Makes a collection, unless it is there: a collection without an index of its own has nothing
    /// else that makes it.
    async fn create_collection(&self, name: &str) -> Result<(), DbError> {
        match self.command(doc! { "create": name }).await {
            Err(DbError::Mongo(error)) if matches!(&*error.kind, ErrorKind::Command(command) if command.code == NAMESPACE_EXISTS) => {
                Ok(())
            }
            created => created.map(drop),
        }
    }
}

fn newest(known: &[Migration]) -> i32 {
    known.last().map_or(0, |migration| migration.version)
}

fn refuse_newer(found: i32, known: &[Migration]) -> Result<(), DbError> {
    let known = newest(known);
    if found > known { Err(DbError::NewerSchema { found, known }) } else { Ok(()) }
}
