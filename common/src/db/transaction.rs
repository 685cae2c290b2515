//! Changes: units of work that are committed completely or not at all.

use std::{any::Any, error::Error, future::Future, iter::successors, time::Duration};

use mongodb::{
    ClientSession, Database,
    error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
};
use tokio::time::{Instant, sleep};

use super::{DbError, Record, Records, Scope, Store, commands::observed, turns::Turns};
use crate::{clock::Clock, origin::Origin, telemetry::metrics};

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
    type Error: Error + From<DbError> + Send + 'static;

    /// The body of the change.
    fn apply(
        &self,
        txn: &mut Txn,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

/// Decides whether a row is still as the caller last saw it. Checked within the transaction, so
/// that no concurrent change is overwritten unnoticed.
pub type Unchanged<'a, T> = &'a (dyn Fn(&T) -> bool + Sync);

/// Whether retrying the whole body may succeed: the server labels such errors.
fn is_transient(error: &(dyn Error + 'static)) -> bool {
    from_server(error).is_some_and(|error| error.contains_label(TRANSIENT_TRANSACTION_ERROR))
}

/// The server's error, if it caused the error of a change.
fn from_server<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a mongodb::error::Error> {
    successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}

/// A transaction in progress.
pub struct Txn {
    session: ClientSession,
    database: Database,
    turns: Turns,
    clock: Clock,
    origin: Origin,
    notes: Notes,
}

/// What a change noted for the code that commits it, such as the jobs that it staged.
pub type Notes = Vec<Box<dyn Any + Send>>;

impl Txn {
    /// The rows of `T` within `scope`, in this transaction.
    pub fn records<T: Record>(&mut self, scope: impl Scope<T>) -> Records<'_, T> {
        Records::new(&self.database, &self.turns, scope.narrowing(), Some(&mut self.session))
    }

    /// The clock, ids and randomness of this process.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Who makes the change, and through what.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Passes a value to the code that commits; discarded if the body runs again.
    pub fn note<N: Send + 'static>(&mut self, note: N) {
        self.notes.push(Box::new(note));
    }
}

impl Store {
    /// Runs `change` in a transaction (majority, snapshot). Retries the whole body after transient
    /// errors, for at most ten seconds. On error, nothing was written. Returns the output and the
    /// notes of the body.
    ///
    /// Only the job engine calls this: it enqueues the jobs and publishes the revocations that the
    /// body noted. Everything else commits with `jobs::Jobs::commit`.
    pub async fn commit<C: Change>(
        &self,
        origin: &Origin,
        change: &C,
    ) -> Result<(C::Output, Notes), C::Error> {
        let deadline = Instant::now() + RETRY_TIME_MAX;
        let mut backoff = BACKOFF_START;
        loop {
            let error = match self.attempt(origin, change, deadline).await {
                Ok(done) => {
                    metrics::DB_TRANSACTIONS.with_label_values(&["committed"]).inc();
                    return Ok(done);
                }
                Err(error) => error,
            };
            if !is_transient(&error) || Instant::now() + backoff > deadline {
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
        origin: &Origin,
        change: &C,
        deadline: Instant,
    ) -> Result<(C::Output, Notes), C::Error> {
        let mut session = self.inner.client.start_session().await.map_err(DbError::from)?;
        session.start_transaction().await.map_err(DbError::from)?;
        let mut txn = Txn {
            session,
            database: self.inner.database.clone(),
            turns: self.inner.turns.clone(),
            clock: self.inner.clock.clone(),
            origin: origin.clone(),
            notes: Vec::new(),
        };
        match change.apply(&mut txn).await {
            Ok(output) => {
                commit_session(&mut txn, deadline).await?;
                Ok((output, txn.notes))
            }
            Err(error) => {
                // If this does not reach the server, it ends the transaction by itself.
                let aborting = async { txn.session.abort_transaction().await };
                if let Err(abort) = txn.turns.take(aborting).await {
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
async fn commit_session(txn: &mut Txn, deadline: Instant) -> Result<(), DbError> {
    loop {
        let committing = async { txn.session.commit_transaction().await };
        match observed(&txn.turns, "commitTransaction", None, committing).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Refusal {
        #[error("the name is taken")]
        Taken,
        #[error(transparent)]
        Db(#[from] DbError),
    }

    #[test]
    fn the_server_error_is_found_in_the_error_of_a_change() {
        let conflict = || DbError::from(mongodb::error::Error::custom("write conflict"));
        assert!(from_server(&conflict()).is_some());
        assert!(from_server(&Refusal::from(conflict())).is_some());
        assert!(from_server(&Refusal::Taken).is_none());
    }
}
