//! Changes: everything that happens together or not at all.

use std::{any::Any, future::Future, time::Duration};

use mongodb::{
    ClientSession, Database,
    error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
};
use tokio::time::{Instant, sleep};

use super::{DbError, Record, Records, Scope, Store};
use crate::{clock::Clock, telemetry::metrics};

/// How long a change may be tried before its error is given to the caller.
const RETRY_TIME_MAX: Duration = Duration::from_secs(10);
/// The wait before the first repetition, doubled at each further one up to the maximum.
const BACKOFF_START: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(200);

/// A change of the store: its rows, its audit event and its jobs, committed together.
///
/// The body may run several times (a write conflict, an election), so it must do nothing but talk
/// to the database through `txn`.
pub trait Change: Sync {
    /// What the caller gets once it is committed.
    type Output: Send;
    /// Why it may be refused. An error rolls everything back.
    type Error: From<DbError> + Transient + Send;

    /// The body.
    fn apply(
        &self,
        txn: &mut Txn,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

/// Whether a row still is what whoever wants to change it has seen of it. Asked within the
/// transaction, so that nobody's change is lost unseen.
pub type Unchanged<'a, T> = &'a (dyn Fn(&T) -> bool + Sync);

/// An error that can tell whether the same change may work when tried again.
pub trait Transient {
    /// The database error inside, if that is what it is.
    fn db(&self) -> Option<&DbError>;

    /// Whether the whole body should be run again.
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
    /// The rows of `T` that `scope` may touch, within this transaction.
    pub fn records<T: Record>(&mut self, scope: impl Scope<T>) -> Records<'_, T> {
        Records::new(&self.database, scope.narrowing(), Some(&mut self.session))
    }

    /// The clock, ids and randomness of this process.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Remembers something for whoever commits; forgotten when the body runs again.
    pub fn note<N: Send + 'static>(&mut self, note: N) {
        self.notes.push(Box::new(note));
    }
}

impl Store {
    /// Runs `change` in a transaction (majority, snapshot), all of it again after a transient
    /// error, for ten seconds at most.
    ///
    /// # Errors
    /// The change's own refusal, or the store's failure. Either way nothing was written.
    pub async fn commit<C: Change>(&self, change: &C) -> Result<C::Output, C::Error> {
        self.commit_noting(change).await.map(|(output, _)| output)
    }

    /// As [`Store::commit`], with what the body noted.
    ///
    /// # Errors
    /// As [`Store::commit`].
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
                // The server ends the transaction by itself if this does not reach it.
                if let Err(abort) = txn.session.abort_transaction().await {
                    tracing::debug!(%abort, "transaction_not_aborted");
                }
                Err(error)
            }
        }
    }

    /// Between half of `span` and all of it.
    fn jittered(&self, span: Duration) -> Duration {
        let [byte] = self.clock().random::<1>();
        span / 2 + span * u32::from(byte) / 512
    }
}

/// Commits; repeats the commit alone while it is unknown whether it took effect.
async fn commit_session(session: &mut ClientSession, deadline: Instant) -> Result<(), DbError> {
    loop {
        match session.commit_transaction().await {
            Ok(()) => return Ok(()),
            Err(error)
                if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT)
                    && Instant::now() < deadline =>
            {
                tracing::debug!(%error, "commit_repeated");
            }
            Err(error) => return Err(error.into()),
        }
    }
}
