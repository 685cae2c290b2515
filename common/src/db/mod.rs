//! The store: MongoDB behind handles that know whose rows they may touch.
//!
//! [`Store::records`] is the only way to a collection. It takes a scope: [`TenantScope`] narrows
//! every filter and insert to one tenant, [`PlatformScope`] is for rows that belong to no tenant
//! or for work across all of them, and says so loudly. Changes go through [`Store::commit`].

mod lease;
mod migrations;
mod records;
pub mod schema;
mod scope;
mod transaction;

use std::{sync::Arc, time::Duration};

use mongodb::{
    Client, Database,
    bson::{Document, doc},
    options::{ClientOptions, ReadConcern, WriteConcern},
};
use secrecy::ExposeSecret;

use crate::{clock::Clock, config};
pub use lease::Lease;
pub use migrations::{Applying, IndexPlan, Migration, MigrationStatus, Plan};
pub use records::Records;
pub use scope::{PlatformOwned, PlatformScope, Record, Scope, TenantOwned, TenantScope};
pub use transaction::{Change, Transient, Txn, Unchanged};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// A unique index refused the row. Holds the index's name.
    #[error("a row with the same key exists already ({0})")]
    Duplicate(String),
    /// A tenant's handle was given another tenant's row. A defect, caught.
    #[error("a row of another tenant was about to be written")]
    ForeignTenant,
    /// The database was prepared by a newer release; this one must not touch it.
    #[error(
        "the database is at schema version {found}, this release knows {known}: deploy the newer release"
    )]
    NewerSchema {
        /// What the database says.
        found: i32,
        /// The newest this release knows.
        known: i32,
    },
    /// The database is not prepared yet.
    #[error(
        "the database is at schema version {found}, this release needs {known}: run `api migrate up`"
    )]
    OlderSchema {
        /// What the database says.
        found: i32,
        /// What this release needs.
        known: i32,
    },
    /// A row could not be turned into BSON or back.
    #[error("a row does not have the expected shape: {0}")]
    Shape(String),
    /// Everything else the driver reports.
    #[error("MongoDB: {}", brief(.0))]
    Mongo(#[source] mongodb::error::Error),
}

impl DbError {
    /// Whether the database could not be reached or could not answer, rather than refused: the
    /// same operation may work once it is back.
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
}

/// What happened, for an operator to read: the driver's own text is a dump of its state.
fn brief(error: &mongodb::error::Error) -> String {
    use mongodb::error::ErrorKind;
    match error.kind.as_ref() {
        ErrorKind::ServerSelection { .. } => {
            "no server that can take the operation was found in time; look at mongodb.uri and the replica set".to_owned()
        }
        ErrorKind::Io(error) => format!("the connection broke: {error}"),
        ErrorKind::ConnectionPoolCleared { .. } => "the connections were dropped, because one of them broke".to_owned(),
        ErrorKind::DnsResolve { message, .. } => format!("a name could not be looked up: {message}"),
        ErrorKind::Authentication { message, .. } => format!("the user was refused: {message}"),
        ErrorKind::Command(command) => format!("{} ({} {})", command.message, command.code, command.code_name),
        other => other.to_string(),
    }
}

/// The code of a unique index's refusal.
const DUPLICATE_KEY: i32 = 11_000;

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
    // "… collection: db.users index: email_norm dup key: …": the message also quotes the value,
    // so only the name is kept.
    let name = message.split("index: ").nth(1)?.split_whitespace().next()?;
    Some(name.to_owned())
}

/// Whether a unique index of this name refused the row.
pub fn is_duplicate(error: &DbError, index: &str) -> bool {
    matches!(error, DbError::Duplicate(name) if name == index)
}

/// How long closing waits for the server.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// The database and what a change needs beside it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    database: Database,
    clock: Clock,
}

impl Store {
    /// Connects lazily: a server that is down shows at the first operation, within the timeout.
    ///
    /// # Errors
    /// When the connection string cannot be understood.
    pub async fn connect(config: &config::Mongodb, clock: Clock) -> Result<Self, DbError> {
        let mut options = ClientOptions::parse(config.uri.expose_secret()).await?;
        options.app_name.get_or_insert_with(|| "tenantry".to_owned());
        options.max_pool_size = Some(config.pool_max);
        options.server_selection_timeout = Some(config.timeout);
        options.connect_timeout = Some(config.timeout);
        // An acknowledged write survives the loss of the primary.
        options.write_concern = Some(WriteConcern::majority());
        options.read_concern = Some(ReadConcern::majority());
        let client = Client::with_options(options)?;
        let database = client.database(&config.database);
        Ok(Self { inner: Arc::new(Inner { client, database, clock }) })
    }

    /// The clock, ids and randomness of this process.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// The rows of `T` that `scope` may touch, outside any transaction.
    pub fn records<T: Record>(&self, scope: impl Scope<T>) -> Records<'static, T> {
        Records::new(&self.inner.database, scope.narrowing(), None)
    }

    /// Whether the database answers within `limit`.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self, limit: Duration) -> Result<(), DbError> {
        let answer = tokio::time::timeout(limit, self.command(doc! { "ping": 1 })).await;
        answer
            .map_err(|_| DbError::Mongo(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))?
            .map(drop)
    }

    async fn command(&self, command: Document) -> Result<Document, DbError> {
        Ok(self.inner.database.run_command(command).await?)
    }

    /// Ends the connections, for this handle and its clones. To be called before a process ends:
    /// what the driver does by itself when its last handle is dropped panics where the runtime ends
    /// meanwhile.
    pub async fn close(&self) {
        // A server that does not answer notices by itself that nobody is there any more.
        let _ = tokio::time::timeout(CLOSE_MAX, self.inner.client.clone().shutdown()).await;
    }

    /// Drops the whole database. Tests clean up with it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn drop_database(&self) -> Result<(), DbError> {
        Ok(self.inner.database.drop().await?)
    }
}
