//! A job as an operator sees it, and what tells those that are meant from the others.

use std::{fmt, str::FromStr};

use common::id::{JobId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::times;
use crate::{
    Envelope, Failure, Queue,
    outbox::OutboxRow,
    queue::{DeadLetter, Found, Spot, entry_millis},
};

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Committed to the outbox, and not handed to Redis yet.
    Staged,
    /// Waiting to be fetched.
    Ready,
    /// In the hands of a worker.
    Running,
    /// Waiting behind others of its tenant.
    Held,
    /// Waiting for its time: the one it was staged for, or that of its next attempt.
    Delayed,
    /// Given up.
    Dead,
}

impl JobState {
    /// Every state, in the order of a job's life.
    pub const ALL: &'static [Self] =
        &[Self::Staged, Self::Held, Self::Delayed, Self::Ready, Self::Running, Self::Dead];

    /// Its name in commands and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Held => "held",
            Self::Delayed => "delayed",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job is staged, held, delayed, ready, running or dead")]
pub struct UnknownState;

impl FromStr for JobState {
    type Err = UnknownState;
    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.iter().copied().find(|state| state.name() == text).ok_or(UnknownState)
    }
}

/// What a job is doing, with what is known only then. Times are milliseconds since the epoch,
/// and RFC 3339 where they are serialised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Standing {
    /// See [`JobState::Staged`].
    Staged,
    /// See [`JobState::Ready`].
    Ready {
        /// Since when it could be fetched.
        #[serde(serialize_with = "times::millis")]
        ready_at: i64,
    },
    /// See [`JobState::Running`].
    Running {
        /// Which consumer has it; a process logs its own with `queue_opened`.
        consumer: String,
        /// Since when it could be fetched: it cannot have started earlier, and in a queue that does
        /// not lag not much later.
        #[serde(serialize_with = "times::millis")]
        ready_at: i64,
        /// How long ago its worker took it or last renewed its lease, in milliseconds. Past the
        /// lease the worker is gone and another one takes over.
        silence_ms: u64,
        /// How often it was given to a worker; each time but the last ended that worker.
        deliveries: u64,
    },
    /// See [`JobState::Held`].
    Held,
    /// See [`JobState::Delayed`].
    Delayed {
        /// When it is due.
        #[serde(serialize_with = "times::millis")]
        until: i64,
    },
    /// See [`JobState::Dead`].
    Dead {
        /// When it was given up.
        #[serde(serialize_with = "times::millis")]
        died_at: i64,
        /// Why.
        error: String,
    },
}

impl Standing {
    /// Which state this is.
    pub const fn state(&self) -> JobState {
        match self {
            Self::Staged => JobState::Staged,
            Self::Ready { .. } => JobState::Ready,
            Self::Running { .. } => JobState::Running,
            Self::Held => JobState::Held,
            Self::Delayed { .. } => JobState::Delayed,
            Self::Dead { .. } => JobState::Dead,
        }
    }
}

/// A job as an operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct JobView {
    /// Its id; none for bytes that tell none.
    pub id: Option<JobId>,
    /// Where it waits, or waited.
    pub queue: Queue,
    /// What it is doing.
    #[serde(flatten)]
    pub standing: Standing,
    /// What it carries.
    #[serde(flatten)]
    pub content: Content,
}

/// What a job carries.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// A job.
    Job(Box<Details>),
    /// Bytes that could not be understood.
    Unreadable {
        /// They, in base64.
        bytes: String,
    },
}

/// What is known of a job wherever it is. Times are milliseconds since the epoch,
/// and RFC 3339 where they are serialised.
#[derive(Debug, Clone, Serialize)]
pub struct Details {
    /// What it is, `noun.verb`.
    pub kind: String,
    /// The version of the payload's shape.
    pub version: u16,
    /// The tenant it is done for, if any.
    pub tenant: Option<TenantId>,
    /// Which attempt is next, or under way, or was the last; counted from 1.
    pub attempt: u32,
    /// Whether a row in the outbox stands behind it, so that it cannot be lost.
    pub staged: bool,
    /// When it was staged or enqueued.
    #[serde(serialize_with = "times::millis")]
    pub enqueued_at: i64,
    /// When its latest attempt was to start, if later than it was enqueued.
    #[serde(serialize_with = "times::maybe_millis")]
    pub due_at: Option<i64>,
    /// The trace it belongs to (W3C `traceparent`).
    pub traceparent: Option<String>,
    /// What went wrong so far, oldest first; the last ten.
    #[serde(serialize_with = "times::failures")]
    pub failures: Vec<Failure>,
    /// The job itself: ids, never secrets.
    pub payload: Box<RawValue>,
}

impl From<Envelope> for Details {
    fn from(envelope: Envelope) -> Self {
        Self {
            kind: envelope.kind,
            version: envelope.version,
            tenant: envelope.tenant,
            attempt: envelope.attempt,
            staged: envelope.staged,
            enqueued_at: envelope.enqueued_at,
            due_at: envelope.due_at,
            traceparent: envelope.traceparent,
            failures: envelope.failures,
            payload: envelope.payload,
        }
    }
}

impl JobView {
    /// What is known of the job, if its bytes can be understood.
    pub fn details(&self) -> Option<&Details> {
        match &self.content {
            Content::Job(details) => Some(details),
            Content::Unreadable { .. } => None,
        }
    }

    /// Why it is dead, or what went wrong last.
    pub fn error(&self) -> Option<&str> {
        match &self.standing {
            Standing::Dead { error, .. } => Some(error),
            _ => self.details()?.failures.last().map(|failure| failure.error.as_str()),
        }
    }

    /// When it was enqueued, or for a dead letter when it died; milliseconds since the epoch.
    pub fn since(&self) -> Option<i64> {
        match &self.standing {
            Standing::Dead { died_at, .. } => Some(*died_at),
            _ => self.details().map(|details| details.enqueued_at),
        }
    }

    pub(super) fn of_found(queue: Queue, found: Found) -> Self {
        let standing = match found.spot {
            Spot::Ready(entry) => Standing::Ready { ready_at: entry_millis(&entry) },
            Spot::Running { entry, consumer, silence, deliveries } => {
                let silence_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
                Standing::Running {
                    consumer,
                    ready_at: entry_millis(&entry),
                    silence_ms,
                    deliveries,
                }
            }
            Spot::Held => Standing::Held,
            Spot::Delayed(until) => Standing::Delayed { until },
            Spot::Dead(died_at, member) => {
                return DeadLetter::of_stored(member, &found.body, died_at).view(queue);
            }
        };
        let content = match Envelope::from_bytes(&found.body) {
            Ok(envelope) => Content::Job(Box::new(envelope.into())),
            Err(_) => Content::Unreadable { bytes: DeadLetter::encode(&found.body) },
        };
        Self { id: found.id, queue, standing, content }
    }

    /// # Errors
    /// When the row's payload is not JSON.
    pub(super) fn of_row(queue: Queue, row: &OutboxRow) -> Result<Self, serde_json::Error> {
        if row.dead_at.is_some() {
            return Ok(DeadLetter::of_row(row)?.view(queue));
        }
        let content = Content::Job(Box::new(row.envelope()?.into()));
        Ok(Self { id: Some(row.id), queue, standing: Standing::Staged, content })
    }
}

/// What jobs have in common; everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// These jobs only; all when empty.
    pub ids: Vec<JobId>,
    /// Jobs of this kind.
    pub kind: Option<String>,
    /// Jobs of this tenant.
    pub tenant: Option<TenantId>,
    /// Whose last error contains this.
    pub error: Option<String>,
    /// Enqueued before this, or for dead letters: died before; milliseconds since the epoch.
    pub before: Option<i64>,
}

impl JobFilter {
    /// Whether all of it holds for `job`.
    pub fn admits(&self, job: &JobView) -> bool {
        let details = job.details();
        let of_ids = self.ids.is_empty() || job.id.is_some_and(|id| self.ids.contains(&id));
        let of_kind = self
            .kind
            .as_deref()
            .is_none_or(|kind| details.is_some_and(|details| details.kind == kind));
        let of_tenant = self
            .tenant
            .is_none_or(|tenant| details.is_some_and(|details| details.tenant == Some(tenant)));
        let of_error = self
            .error
            .as_deref()
            .is_none_or(|error| job.error().is_some_and(|text| text.contains(error)));
        of_ids
            && of_kind
            && of_tenant
            && of_error
            && self.before.is_none_or(|before| job.since().is_some_and(|since| since < before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_found_by_name() {
        for state in JobState::ALL {
            assert_eq!(state.name().parse(), Ok(*state));
        }
        assert!("lost".parse::<JobState>().is_err());
    }
}
