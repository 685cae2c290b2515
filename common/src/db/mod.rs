//! MongoDB, behind handles that enforce whose rows may be accessed.
//!
//! [`Store::records`] is the only way to a collection. It takes a scope: a [`TenantScope`] narrows
//! every filter and insert to one tenant; a [`PlatformScope`] is for rows that belong to no tenant,
//! or for work across all of them. Changes go through [`Store::commit`].

mod commands;
mod health;
mod lease;
mod processes;
mod records;
pub mod schema;
mod scope;
mod transaction;
mod turns;

use std::{io, sync::Arc, time::Duration};

use mongodb::{
    Client, Database,
    bson::{Document, doc},
    event::{EventHandler, cmap::CmapEvent},
    options::{ClientOptions, ReadConcern, WriteConcern},
};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use crate::{
    clock::Clock,
    config,
    telemetry::metrics::{self, Resource},
};
pub use health::Health;
pub use lease::Lease;
pub use processes::{Heartbeat, Process};
pub use records::Records;
pub use scope::{
    Data, Erasure, Export, MaybeOfTenant, OfTenant, Owner, PlatformScope, Record, Scope,
    TenantScope,
};
pub use transaction::{Change, Notes, Txn, Unchanged};
use turns::Turns;

/// Why a database operation failed.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// A unique index rejected the row. Holds the index's name.
    #[error("a row with the same key exists already ({0})")]
    Duplicate(String),
    /// A row of another tenant was passed to a tenant's handle. This is a defect in the code.
    #[error("a row of another tenant must not be written through this tenant's scope")]
    ForeignTenant,
    /// A newer release has changed the database in a way that this one cannot work with.
    #[error(
        "the database needs a release of schema generation {readable_from} or later, and this one has {known}: deploy the newer release"
    )]
    NewerSchema {
        /// The oldest generation that can work with the database.
        readable_from: i32,
        /// The generation of this release.
        known: i32,
    },
    /// The database is not prepared for this release yet.
    #[error(
        "the database is at schema generation {found}, and this release needs {known}: run `api migrate up`"
    )]
    OlderSchema {
        /// The generation of the database.
        found: i32,
        /// The generation of this release.
        known: i32,
    },
    /// A data change would break processes that are running.
    #[error(
        "the data change `{change}` was not started, because older processes that are running cannot work with its result: {processes}; stop them, or run `api migrate up --force`"
    )]
    OlderProcesses {
        /// The data change.
        change: &'static str,
        /// The processes.
        processes: String,
    },
    /// Rows share the key of an index that must be unique.
    #[error(
        "index {index} of {collection} must be unique, but rows have the same key: {rows}; change or delete all but one of each, then run `api migrate up` again"
    )]
    NotUnique {
        /// The collection.
        collection: &'static str,
        /// The index.
        index: &'static str,
        /// The ids of some of the rows.
        rows: String,
    },
    /// Another process took over the work of this one. Holds the duration of the lease.
    #[error(
        "another process took over, because this one did not renew its lease for {0:?}; run the command again"
    )]
    LeaseLost(Duration),
    /// A row could not be serialized, deserialized or validated.
    #[error("a row does not have the expected shape: {0}")]
    Shape(String),
    /// Any other error of the driver.
    #[error("MongoDB: {}", brief(.0))]
    Mongo(#[source] mongodb::error::Error),
}

impl DbError {
    /// Whether the database was unreachable or could not answer. The same operation may succeed
    /// once it is back.
    pub fn is_outage(&self) -> bool {
        use mongodb::error::{
            ErrorKind, RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR,
            UNKNOWN_TRANSACTION_COMMIT_RESULT,
        };
        let Self::Mongo(error) = self else { return false };
        let unreachable = matches!(
            error.kind.as_ref(),
            ErrorKind::Io(_)
                | ErrorKind::ServerSelection { .. }
                | ErrorKind::ConnectionPoolCleared { .. }
                | ErrorKind::DnsResolve { .. }
        );
        let passing =
            [RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT];
        unreachable || passing.iter().any(|label| error.contains_label(label))
    }

    /// Whether another transaction that has not ended, or that ended after this one had begun, wrote
    /// the same row. Unless the body of a change makes another error of it, the whole body is
    /// retried.
    pub fn is_write_conflict(&self) -> bool {
        use mongodb::error::ErrorKind;
        let Self::Mongo(error) = self else { return false };
        matches!(error.kind.as_ref(), ErrorKind::Command(command) if command.code == WRITE_CONFLICT)
    }
}

/// A short message for operators: the driver's own text dumps its internal state.
fn brief(error: &mongodb::error::Error) -> String {
    use mongodb::error::ErrorKind;
    match error.kind.as_ref() {
        ErrorKind::ServerSelection { .. } => {
            "no suitable server was found in time; check mongodb.uri and the state of the replica set".to_owned()
        }
        ErrorKind::Io(error) => format!("the connection broke: {error}"),
        ErrorKind::ConnectionPoolCleared { .. } => "the connection pool was cleared because a connection broke".to_owned(),
        ErrorKind::DnsResolve { message, .. } => format!("a DNS name could not be resolved: {message}"),
        ErrorKind::Authentication { message, .. } => format!("authentication failed: {message}"),
        ErrorKind::Command(command) => format!("{} ({} {})", command.message, command.code, command.code_name),
        other => other.to_string(),
    }
}

/// The collections of this crate.
pub const COLLECTIONS: &[schema::Collection] =
    &[schema::Collection::of::<Lease>(), schema::Collection::of::<Process>()];

/// Error code of a unique index that rejected a row.
const DUPLICATE_KEY: i32 = 11_000;
/// Error code of a write to a row that another transaction is writing.
const WRITE_CONFLICT: i32 = 112;

impl From<mongodb::error::Error> for DbError {
    fn from(error: mongodb::error::Error) -> Self {
        duplicate_of(&error).map_or(Self::Mongo(error), Self::Duplicate)
    }
}

fn duplicate_of(error: &mongodb::error::Error) -> Option<String> {
    use mongodb::error::{ErrorKind, WriteFailure};
    let message = match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(write)) if write.code == DUPLICATE_KEY => {
            &write.message
        }
        ErrorKind::InsertMany(many) => {
            &many.write_errors.as_ref()?.iter().find(|write| write.code == DUPLICATE_KEY)?.message
        }
        ErrorKind::Command(command) if command.code == DUPLICATE_KEY => &command.message,
        _ => return None,
    };
    // "… collection: db.users index: email_norm dup key: …": the message also quotes the value, so
    // only the index's name is kept.
    let name = message.split("index: ").nth(1)?.split_whitespace().next()?;
    Some(name.to_owned())
}

/// Whether the unique index `index` rejected the row.
pub fn is_duplicate(error: &DbError, index: &str) -> bool {
    matches!(error, DbError::Duplicate(name) if name == index)
}

/// Counts the connections in use.
fn note_use(event: &CmapEvent) {
    match event {
        CmapEvent::ConnectionCheckedOut(_) => Resource::DbConnections.used().inc(),
        CmapEvent::ConnectionCheckedIn(_) => Resource::DbConnections.used().dec(),
        _ => {}
    }
}

/// How long closing waits for the server.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// The database and the clock of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    database: Database,
    turns: Turns,
    clock: Clock,
}

impl Store {
    /// Connects lazily: an unreachable server causes an error at the first operation, within the
    /// timeout. Fails if the connection string is invalid.
    pub async fn connect(config: &config::Mongodb, clock: Clock) -> Result<Self, DbError> {
        let mut options = ClientOptions::parse(config.uri.expose_secret()).await?;
        options.app_name.get_or_insert_with(|| "tenantry".to_owned());
        options.server_selection_timeout = Some(config.timeout);
        options.connect_timeout = Some(config.timeout);
        // Acknowledged writes survive the loss of the primary.
        options.write_concern = Some(WriteConcern::majority());
        options.read_concern = Some(ReadConcern::majority());
        let turns = Turns::limiting(&mut options, config.pool_max);
        Resource::DbConnections.limit_to(config.pool_max as usize);
        options.cmap_event_handler = Some(EventHandler::callback(|event| note_use(&event)));
        let client = Client::with_options(options)?;
        let database = client.database(&config.database);
        Ok(Self { inner: Arc::new(Inner { client, database, turns, clock }) })
    }

    /// The clock, ids and randomness of this process.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// The rows of `T` within `scope`, outside any transaction.
    pub fn records<T: Record>(&self, scope: impl Scope<T>) -> Records<'static, T> {
        Records::new(&self.inner.database, &self.inner.turns, scope.narrowing(), None)
    }

    /// Checks that the database answers within `limit`: this ping, or any other operation. Those
    /// that are answered while the ping is not show that it only waits for its turn.
    pub async fn ping(&self, limit: Duration) -> Result<(), DbError> {
        let before = self.inner.turns.answers();
        let answer = match timeout(limit, self.command(doc! { "ping": 1 })).await {
            Ok(answer) => answer.map(drop),
            Err(_) if self.inner.turns.answers() != before => Ok(()),
            Err(_) => Err(DbError::Mongo(io::Error::from(io::ErrorKind::TimedOut).into())),
        };
        metrics::MONGODB_UP.set(i64::from(answer.is_ok()));
        answer
    }

    async fn command(&self, command: Document) -> Result<Document, DbError> {
        let running = self.inner.database.run_command(command);
        Ok(self.inner.turns.take(async { running.await }).await?)
    }

    /// Closes the connections of this handle and its clones. Call it before the process ends: the
    /// cleanup that the driver runs when its last handle is dropped panics if the runtime is
    /// shutting down.
    pub async fn close(&self) {
        // A server that does not answer will notice by itself that the client has gone.
        let _ = timeout(CLOSE_MAX, self.inner.client.clone().shutdown()).await;
    }

    /// Drops the whole database, for tests.
    pub async fn drop_database(&self) -> Result<(), DbError> {
        Ok(self.inner.database.drop().await?)
    }
}
