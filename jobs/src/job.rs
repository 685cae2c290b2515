//! What a job is: a plain struct whose policy stands on its type.

use std::{error::Error, fmt, str::FromStr, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::Unique;

/// Where jobs wait. One queue a concern, so that a slow one never holds up another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// Outgoing mail.
    Email,
    /// The installation's own upkeep: purges, checks of itself.
    Maintenance,
}

impl Queue {
    /// Every queue.
    pub const ALL: &'static [Self] = &[Self::Email, Self::Maintenance];

    /// Its name in keys, metrics and commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Maintenance => "maintenance",
        }
    }

    /// How urgent it is: while a process runs as many jobs as it may, the next start goes to the
    /// queue of the highest priority that waits.
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

/// A text that names no queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no queue of this name; `worker queues` lists them")]
pub struct UnknownQueue;

impl FromStr for Queue {
    type Err = UnknownQueue;
    fn from_str(text: &str) -> Result<Self, UnknownQueue> {
        Self::ALL.iter().copied().find(|queue| queue.name() == text).ok_or(UnknownQueue)
    }
}

/// Work for later. A payload carries ids, never secrets or copies of rows, and stays readable:
/// what is waiting when a new release starts was written by the old one.
pub trait Job: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What it is, `noun.verb`; never reused for something else.
    const KIND: &'static str;
    /// Where it waits.
    const QUEUE: Queue;
    /// The version of the payload's shape; raised when it changes in a way that an older worker
    /// would misread. Older workers park what is newer than they know; newer ones bring what is
    /// older up to date with [`Job::upcast`].
    const VERSION: u16 = 1;
    /// Attempts at most, the first included; then it goes to the dead letters. With the default
    /// backoff 20 attempts span about two hours.
    const MAX_ATTEMPTS: u32 = 20;
    /// The longest one attempt may take; then it counts as failed and is tried again.
    const TIMEOUT: Duration = Duration::from_mins(1);

    /// What it is unique by, if anything: while it holds that key, others with the same are
    /// dropped.
    fn unique(&self) -> Option<Unique> {
        None
    }

    /// Brings a payload of version `from` to version `from + 1`. Called step by step, so that each
    /// release adds the one step it needs; what it does not change it passes on.
    ///
    /// # Errors
    /// When `payload` is not one that version `from` wrote: the job goes to the dead letters, its
    /// payload untouched.
    fn upcast(from: u16, payload: Value) -> Result<Value, BoxError> {
        let _ = from;
        Ok(payload)
    }
}

/// Any error at all.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why an attempt did not succeed, and what is to become of the job.
#[derive(Debug)]
pub enum JobError {
    /// Try again later, with exponential backoff and jitter.
    Retry(BoxError),
    /// Try again after this long, as whoever is asked demands (`Retry-After`).
    RetryAfter(Duration, BoxError),
    /// No further try can help: to the dead letters.
    Fail(BoxError),
}

impl JobError {
    /// [`JobError::Retry`] of any error or text.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self::Retry(error.into())
    }

    /// [`JobError::Fail`] of any error or text.
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
            // Many error types print their cause themselves.
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
    /// The store fails for a while, never for good.
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
    fn an_error_tells_its_causes_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("mail not sent")]
        struct Outer(#[source] std::io::Error);
        let error = JobError::retry(Outer(std::io::Error::other("connection refused")));
        assert_eq!(error.chain(), "mail not sent: connection refused");
    }
}
