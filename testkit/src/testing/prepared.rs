//! Databases with the collections and indexes of a product, reused by one test after another.
//!
//! Creating them takes a second and a hundred files. So it is done once, and the rows of the
//! previous test are deleted before another test gets the database. A lock file, locked until the
//! process ends, keeps other tests away.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, Write},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use futures::{
    TryStreamExt,
    future::{join_all, try_join_all},
};
use mongodb::{
    Client, Database,
    bson::{Document, doc},
    error::ErrorKind,
};
use serde::{Deserialize, Serialize};

/// How long operations of an earlier test may still run on the server.
const QUIET_WITHIN: Duration = Duration::from_secs(5);
/// How long a deletion may wait for an abandoned transaction.
const CLEANED_WITHIN: Duration = Duration::from_secs(2);

/// Locked until this process ends: until then, what a test leaves running may use its database.
static CLAIMS: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Error code of a command that took longer than it may.
const MAX_TIME_EXPIRED: i32 = 50;

/// What can be done with a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It has its schema and no rows.
    Clean,
    /// It must be prepared.
    Empty,
    /// A transaction that an earlier test abandoned blocks it. The server ends the transaction after
    /// a minute.
    Blocked,
}

/// A database that belongs to this process.
pub(super) struct Claim {
    database: Database,
    file: File,
    /// Its collections when it was prepared; none if it was not.
    prepared: Option<Collections>,
}

/// Collections by name.
type Collections = BTreeMap<String, Collection>;

/// A collection.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Collection {
    /// As listed by the server, in Extended JSON.
    options: String,
    rows: u64,
}

impl Claim {
    /// A database with this schema that no running process uses; a new one if there is none.
    pub(super) async fn of(schema: &str, mongodb_uri: &str) -> anyhow::Result<Self> {
        let client = Client::with_uri_str(mongodb_uri).await?;
        for number in 0.. {
            let name = format!("test_{schema}_{number}");
            let Some(mut file) = lock(mongodb_uri, &name)? else { continue };
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            let prepared = serde_json::from_str(&text).ok();
            let database = client.database(&name);
            return Ok(Self { database, file, prepared });
        }
        anyhow::bail!("every name is taken")
    }

    pub(super) fn name(&self) -> &str {
        self.database.name()
    }

    /// Makes the database usable.
    pub(super) async fn state(&self) -> anyhow::Result<State> {
        if !self.is_quiet().await? {
            return Ok(State::Blocked);
        }
        if self.clean().await? {
            return Ok(State::Clean);
        }
        Ok(if self.drop().await? { State::Empty } else { State::Blocked })
    }

    /// Deletes what a test left behind. Returns false if the database must be prepared.
    async fn clean(&self) -> anyhow::Result<bool> {
        let Some(prepared) = &self.prepared else { return Ok(false) };
        let mut found = collections(&self.database).await?;
        let mut used = Vec::new();
        for (name, before) in prepared {
            match found.remove(name) {
                Some(now) if now == *before => {}
                Some(now) if now.options == before.options && before.rows == 0 => used.push(name),
                // A part of the schema was changed.
                _ => return Ok(false),
            }
        }
        let deleting = used.into_iter().map(|name| async move {
            self.database.collection::<Document>(name).delete_many(doc! {}).await.map(drop)
        });
        let dropping = found
            .keys()
            .map(|name| async move { self.database.collection::<Document>(name).drop().await });
        let cleaning = async { tokio::join!(join_all(deleting), join_all(dropping)) };
        let cleaned = tokio::time::timeout(CLEANED_WITHIN, cleaning).await;
        Ok(cleaned
            .is_ok_and(|(deleted, dropped)| deleted.iter().chain(&dropped).all(Result::is_ok)))
    }

    /// Waits until the server has finished the operations of processes that have ended; returns
    /// whether it has in time.
    async fn is_quiet(&self) -> anyhow::Result<bool> {
        let here = format!("^{}\\.", self.name());
        let admin = self.database.client().database("admin");
        let quiet = async {
            loop {
                let stages = [
                    doc! { "$currentOp": { "allUsers": true } },
                    doc! { "$match": { "active": true, "ns": { "$regex": &here } } },
                ];
                let running: Vec<Document> = admin.aggregate(stages).await?.try_collect().await?;
                if running.is_empty() {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(QUIET_WITHIN, quiet).await {
            Ok(quiet) => quiet.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Drops the database, so that it can be prepared; returns whether the server did in time.
    async fn drop(&self) -> anyhow::Result<bool> {
        let limit = i64::try_from(CLEANED_WITHIN.as_millis())?;
        // The limit of the server: otherwise it would drop the database under a later test.
        match self.database.run_command(doc! { "dropDatabase": 1, "maxTimeMS": limit }).await {
            Ok(_) => Ok(true),
            Err(error) => match error.kind.as_ref() {
                ErrorKind::Command(error) if error.code == MAX_TIME_EXPIRED => Ok(false),
                _ => Err(error.into()),
            },
        }
    }

    /// Records the current state of the database for the next test, and keeps the database until
    /// this process ends.
    pub(super) async fn keep(mut self) -> anyhow::Result<()> {
        let prepared = collections(&self.database).await?;
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(&serde_json::to_vec(&prepared)?)?;
        self.hold();
        Ok(())
    }

    /// Keeps the database until this process ends.
    pub(super) fn hold(self) {
        CLAIMS.lock().unwrap_or_else(PoisonError::into_inner).push(self.file);
    }
}

async fn collections(database: &Database) -> anyhow::Result<Collections> {
    let listed: Vec<_> = database.list_collections().await?.try_collect().await?;
    let counted = listed.into_iter().map(|listed| async move {
        let collection = database.collection::<Document>(&listed.name);
        let rows = collection.estimated_document_count().await?;
        let options = serde_json::to_string(&listed.options)?;
        anyhow::Ok((listed.name, Collection { options, rows }))
    });
    Ok(try_join_all(counted).await?.into_iter().collect())
}

/// The lock file of a database of this server; none if another process has locked it.
fn lock(mongodb_uri: &str, database: &str) -> anyhow::Result<Option<File>> {
    let server: String =
        mongodb_uri.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let user = rustix::process::getuid().as_raw();
    let folder: PathBuf =
        std::env::temp_dir().join(format!("testkit-databases-{user}")).join(server);
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(folder.join(database))
        .with_context(|| format!("claiming a database in {}", folder.display()))?;
    Ok(file.try_lock().is_ok().then_some(file))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::testing::shared;

    #[tokio::test]
    async fn a_database_blocked_by_an_abandoned_transaction_is_not_waited_for() {
        let servers = shared::servers().await.unwrap();
        let claim = Claim::of("abandoned", &servers.mongodb_uri).await.unwrap();
        let collection = claim.database.collection::<Document>("rows");
        collection.insert_one(doc! { "_id": 1 }).await.unwrap();
        let mut session = claim.database.client().start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        collection.insert_one(doc! { "_id": 2 }).session(&mut session).await.unwrap();

        let started = Instant::now();
        assert_eq!(claim.state().await.unwrap(), State::Blocked);
        assert!(started.elapsed() < Duration::from_secs(30), "the server ends it after 60 s");
        session.abort_transaction().await.unwrap();
        assert_eq!(claim.state().await.unwrap(), State::Empty);
    }
}
