//! Changes: units of work that are committed completely or not at all.

use std::{any::Any, future::Future, time::Duration};

use mongodb::{
    ClientSession, Database,
    error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
};
use tokio::time::{Instant, sleep};

use super::{DbError, Record, Records, Scope, Store};
use crate::{clock::Clock, telemetry::metrics};

/// How long a change is retried before its error is returned.
const RETRY_TIME_MAX: Duration = Duration::from_secs(10);
/// Wait before the first retry, doubled for each further one up to the maximum.
const BACKOFF_START: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(200);

/// A change of the database: its rows, its audit event and its jobs, committed together.
///
/// The body may run several times (write conflict, election), so its only side effects must be
/// those on the database through `txn`.
pub trait Change: Sync {
    /// Result of the committed change.
    type Output: Send;
    /// Why the change may fail. An error rolls everything back.
    type Error: From<DbError> + Transient + Send;

    /// The body of the change.
    fn apply(
        &self,
        txn: &mut Txn,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

/// Decides whether a row is still as the caller last saw it. Checked within the transaction, so
/// that no concurrent change is overwritten unnoticed.
pub type Unchanged<'a, T> = &'a (dyn Fn(&T) -> bool + Sync);

/// An error that knows whether retrying the same change may succeed.
pub trait Transient {
    /// The database error inside, if any.
    fn db(&self) -> Option<&DbError>;

    /// Whether the whole body should run again.
    fn is_transient(&self) -> bool {
        let label = |error: &DbError| matches!(error, DbError::Mongo(error) if error.contains_label(TRANSIENT_TRANSACTION_ERROR));
        self.db().is_some_and(label)
    }
}

impl Transient for DbError {
    fn db(&self) -> Option<&DbError> {
        Some(self)
    }
}

/// A transaction in progress.
pub struct Txn {
    session: ClientSession,
    database: Database,
    clock: Clock,
    notes: Vec<Box<dyn Any + Send>>,
}

impl Txn {
    /// The rows of `T` within `scope`, in this transaction.
    pub fn records<T: Record>(&mut self, scope: impl Scope<T>) -> Records<'_, T> {
        Records::new(&self.database, scope.narrowing(), Some(&mut self.session))
    }

    /// The clock, ids and randomness of this process.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Passes a value to the code that commits; discarded if the body runs again.
    pub fn note<N: Send + 'static>(&mut self, note: N) {
        self.notes.push(Box::new(note));
    }
}

impl Store {
    /// Runs `change` in a transaction (majority, snapshot). Retries the whole body after transient
    /// errors, for at most ten seconds. On error, nothing was written.
    pub async fn commit<C: Change>(&self, change: &C) -> Result<C::Output, C::Error> {
        self.commit_noting(change).await.map(|(output, _)| output)
    }

    /// As [`Store::commit`]; also returns the notes of the body.
    pub async fn commit_noting<C: Change>(
        &self,
        change: &C,
    ) -> Result<(C::Output, Vec<Box<dyn Any + Send>>), C::Error> {
        let deadline = Instant::now() + RETRY_TIME_MAX;
        let mut backoff = BACKOFF_START;
        loop {
            let error = match self.attempt(change, deadline).await {
                Ok(done) => {
                    metrics::DB_TRANSACTIONS.with_label_values(&["committed"]).inc();
                    return Ok(done);
                }
                Err(error) => error,
            };
            if !error.is_transient() || Instant::now() + backoff > deadline {
                metrics::DB_TRANSACTIONS.with_label_values(&["aborted"]).inc();
                return Err(error);
            }
            metrics::DB_TRANSACTION_RETRIES.inc();
            sleep(self.jittered(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn attempt<C: Change>(
        &self,
        change: &C,
        deadline: Instant,
    ) -> Result<(C::Output, Vec<Box<dyn Any + Send>>), C::Error> {
        let mut session = self.inner.client.start_session().await.map_err(DbError::from)?;
        session.start_transaction().await.map_err(DbError::from)?;
        let mut txn = Txn {
            session,
            database: self.inner.database.clone(),
            clock: self.inner.clock.clone(),
            notes: Vec::new(),
        };
        match change.apply(&mut txn).await {
            Ok(output) => {
                commit_session(&mut txn.session, deadline).await?;
                Ok((output, txn.notes))
            }
            Err(error) => {
                // If this does not reach the server, it ends the transaction by itself.
                if let Err(abort) = txn.session.abort_transaction().await {
                    tracing::debug!(%abort, "transaction_not_aborted");
                }
                Err(error)
            }
        }
    }

    /// A random duration between half of `span` and `span`.
    fn jittered(&self, span: Duration) -> Duration {
        let [byte] = self.clock().random::<1>();
        span / 2 + span * u32::from(byte) / 512
    }
}

/// Commits; repeats only the commit while its result is unknown.
async fn commit_session(session: &mut ClientSession, deadline: Instant) -> Result<(), DbError> {
    loop {
        match session.commit_transaction().await {
            Ok(()) => return Ok(()),
            Err(error)
                if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT)
                    && Instant::now() < deadline =>
            {
                tracing::debug!(%error, "commit_retried");
            }
            Err(error) => return Err(error.into()),
        }
    }
}
