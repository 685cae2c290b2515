//! Jobs: plain structs with their policy declared on the type.

use std::{error::Error, fmt, time::Duration};

use common::config::Queue;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::Unique;

/// A unit of work for later. Its payload contains ids, never secrets or copies of rows, and must
/// stay readable: jobs that wait when a new release starts were staged by the old one.
pub trait Job: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Kind of the job, `noun.verb`; never reused for another job.
    const KIND: &'static str;
    /// Its queue.
    const QUEUE: Queue;
    /// Version of the payload's format; increase it for a change that an older worker would
    /// misread. Older workers park jobs of a newer version; newer workers convert older payloads
    /// with [`Job::upcast`].
    const VERSION: u16 = 1;
    /// Maximum number of attempts, including the first; after the last, the job becomes a dead
    /// letter. With the default backoff, 20 attempts span about two hours.
    const MAX_ATTEMPTS: u32 = 20;
    /// Maximum duration of an attempt; one that takes longer has failed and is retried.
    const TIMEOUT: Duration = Duration::from_mins(1);

    /// Its unique key, if any: while it holds the key, other jobs with the same key are dropped.
    fn unique(&self) -> Option<Unique> {
        None
    }

    /// Converts a payload from version `from` to version `from + 1`. Called for one version after
    /// the other, so that each release adds only its own step; a step that changes nothing returns
    /// the payload.
    ///
    /// # Errors
    /// If `payload` is not of version `from`: the job becomes a dead letter with its payload
    /// unchanged.
    fn upcast(from: u16, payload: Value) -> Result<Value, BoxError> {
        let _ = from;
        Ok(payload)
    }
}

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why an attempt failed, and what happens to the job.
#[derive(Debug)]
pub enum JobError {
    /// Retries later, with exponential backoff and jitter.
    Retry(BoxError),
    /// Retries after this time, as requested by the other side (`Retry-After`).
    RetryAfter(Duration, BoxError),
    /// Nothing failed: the job runs again after this time, because it is too early. The attempt does
    /// not count.
    NotYet(Duration, BoxError),
    /// Dead-letters the job, because no retry can help.
    Fail(BoxError),
}

impl JobError {
    /// [`JobError::Retry`] with any error or text.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self::Retry(error.into())
    }

    /// [`JobError::Fail`] with any error or text.
    pub fn fail(error: impl Into<BoxError>) -> Self {
        Self::Fail(error.into())
    }

    /// The error with its causes, on one line.
    pub(crate) fn chain(&self) -> String {
        let (Self::Retry(error)
        | Self::RetryAfter(_, error)
        | Self::NotYet(_, error)
        | Self::Fail(error)) = self;
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Many error types already include their cause in their text.
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        text
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

impl Error for JobError {}

impl From<common::db::DbError> for JobError {
    /// Database failures are temporary.
    fn from(error: common::db::DbError) -> Self {
        Self::retry(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("mail not sent")]
        struct Outer(#[source] std::io::Error);
        let error = JobError::retry(Outer(std::io::Error::other("connection refused")));
        assert_eq!(error.chain(), "mail not sent: connection refused");
    }
}
