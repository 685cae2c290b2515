//! Jobs: plain structs whose policy is declared on their type.

use std::{error::Error, fmt, str::FromStr, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::Unique;

/// Queues of jobs, one per concern, so that a slow concern does not delay the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// Outgoing mail.
    Email,
    /// Maintenance of the installation: purges and self-checks.
    Maintenance,
}

impl Queue {
    /// All queues.
    pub const ALL: &'static [Self] = &[Self::Email, Self::Maintenance];

    /// Its name in keys, metrics and commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Maintenance => "maintenance",
        }
    }

    /// Its priority: when a process runs as many jobs as it may, the next job comes from the
    /// waiting queue with the highest priority.
    pub const fn priority(self) -> u8 {
        match self {
            Self::Email => 200,
            Self::Maintenance => 50,
        }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text is not the name of a queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no queue of this name; `worker queues` lists them")]
pub struct UnknownQueue;

impl FromStr for Queue {
    type Err = UnknownQueue;
    fn from_str(text: &str) -> Result<Self, UnknownQueue> {
        Self::ALL.iter().copied().find(|queue| queue.name() == text).ok_or(UnknownQueue)
    }
}

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
        let (Self::Retry(error) | Self::RetryAfter(_, error) | Self::Fail(error)) = self;
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
    fn queues_are_found_by_name() {
        for queue in Queue::ALL {
            assert_eq!(queue.name().parse(), Ok(*queue));
            assert_eq!(serde_json::to_value(queue).unwrap(), queue.name());
        }
        assert_eq!("nowhere".parse::<Queue>(), Err(UnknownQueue));
    }

    #[test]
    fn an_error_shows_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("mail not sent")]
        struct Outer(#[source] std::io::Error);
        let error = JobError::retry(Outer(std::io::Error::other("connection refused")));
        assert_eq!(error.chain(), "mail not sent: connection refused");
    }
}
