//! Dead letters, as an operator handles them: found by what they have in common, and given another
//! try one by one or all at once.

use common::{db::DbError, id::JobId};

use crate::{Envelope, Jobs, Queue, outbox::revive_rows, queue::DeadLetter};

/// Dead letters looked at in one round trip.
const PAGE: isize = 500;

/// What dead letters have in common; everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// These jobs only; all when empty.
    pub ids: Vec<JobId>,
    /// Jobs of this kind.
    pub kind: Option<String>,
    /// Whose last error contains this.
    pub error: Option<String>,
}

/// Why dead letters could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// Redis failed.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// An envelope cannot be read or written.
    #[error("a dead letter is not what this release writes: {0}")]
    Json(#[from] serde_json::Error),
}

impl DeadFilter {
    fn admits(&self, letter: &DeadLetter) -> bool {
        let of_ids = self.ids.is_empty() || letter.id.is_some_and(|id| self.ids.contains(&id));
        let of_kind = self.kind.as_ref().is_none_or(|kind| letter.kind.as_ref() == Some(kind));
        of_ids && of_kind && self.error.as_ref().is_none_or(|error| letter.error.contains(error))
    }
}

impl Jobs {
    /// Up to `limit` dead letters of `queue`, newest first.
    ///
    /// # Errors
    /// See [`DeadLetterError`].
    pub async fn dead_letters(&self, queue: Queue, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, DeadLetterError> {
        let mut found = Vec::new();
        for page in 0.. {
            let bodies = self.broker().dead_letters(queue, page * PAGE, PAGE).await?;
            for body in &bodies {
                let letter: DeadLetter = serde_json::from_slice(body)?;
                if filter.admits(&letter) {
                    found.push(letter);
                }
            }
            if bodies.is_empty() || found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Gives dead letters of `queue` another try, from their first attempt on; answers how many
    /// were still dead. Bytes that could not be understood stay: they would be no better.
    ///
    /// # Errors
    /// See [`DeadLetterError`]. What was done until then stays done; the rest is still dead.
    pub async fn replay(&self, queue: Queue, letters: &[DeadLetter]) -> Result<usize, DeadLetterError> {
        let mut replayed = 0;
        for letters in letters.chunks(PAGE.unsigned_abs()) {
            let envelopes: Vec<Envelope> = letters.iter().filter_map(|letter| letter.envelope.clone()).map(Envelope::anew).collect();
            // The row first: a process that dies in between leaves the job to the relay.
            let staged: Vec<JobId> = envelopes.iter().filter(|envelope| envelope.staged).map(|envelope| envelope.id).collect();
            revive_rows(self.store(), &staged).await?;
            replayed += self.broker().replay(queue, &envelopes).await?;
        }
        Ok(replayed)
    }
}
