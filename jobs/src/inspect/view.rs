//! A job as shown to an operator, and filters for jobs.

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

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Committed to the outbox, not yet in Redis.
    Staged,
    /// Ready to be fetched.
    Ready,
    /// Taken by a worker.
    Running,
    /// Held back because its tenant has reached its limit.
    Held,
    /// Due later: at the time it was staged for, or of its next attempt.
    Delayed,
    /// Dead letter.
    Dead,
}

impl JobState {
    /// Every state, in the order of a job's life.
    pub const ALL: &'static [Self] =
        &[Self::Staged, Self::Held, Self::Delayed, Self::Ready, Self::Running, Self::Dead];

    /// Its name in commands and responses.
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

/// The text is not a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the state must be staged, held, delayed, ready, running or dead")]
pub struct UnknownState;

impl FromStr for JobState {
    type Err = UnknownState;
    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.iter().copied().find(|state| state.name() == text).ok_or(UnknownState)
    }
}

/// The state of a job with the details specific to it. Times are milliseconds since the epoch,
/// serialized as RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobStatus {
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
        /// The consumer that took it; a process logs its own name with `queue_opened`.
        consumer: String,
        /// Since when it could be fetched. It cannot have started earlier, and, unless the queue
        /// lags, not much later.
        #[serde(serialize_with = "times::millis")]
        ready_at: i64,
        /// Milliseconds since its worker took it or last renewed its lease. If this exceeds the
        /// lease, the worker is gone and another one takes over.
        silence_ms: u64,
        /// How often it was delivered to a worker; each delivery but the last crashed that worker.
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
        /// When it became a dead letter.
        #[serde(serialize_with = "times::millis")]
        died_at: i64,
        /// The error that ended it.
        error: String,
    },
}

impl JobStatus {
    /// The state without its details.
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

/// A job as shown to an operator.
#[derive(Debug, Clone, Serialize)]
pub struct JobView {
    /// Id of the job; none if its bytes are unreadable.
    pub id: Option<JobId>,
    /// Its queue.
    pub queue: Queue,
    /// Its state.
    #[serde(flatten)]
    pub status: JobStatus,
    /// Its content.
    #[serde(flatten)]
    pub content: Content,
}

/// The content of a job.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// A job.
    Job(Box<Details>),
    /// Bytes that could not be parsed.
    Unreadable {
        /// The bytes in base64.
        bytes: String,
    },
}

/// Details of a job in any state. Times are milliseconds since the epoch, serialized as RFC 3339.
#[derive(Debug, Clone, Serialize)]
pub struct Details {
    /// Kind of the job, `noun.verb`.
    pub kind: String,
    /// Version of the payload's format.
    pub version: u16,
    /// The tenant it belongs to, if any.
    pub tenant: Option<TenantId>,
    /// The next, current or last attempt, from 1.
    pub attempt: u32,
    /// Whether it has a row in the outbox, so that it cannot be lost.
    pub staged: bool,
    /// When it was staged or enqueued.
    #[serde(serialize_with = "times::millis")]
    pub enqueued_at: i64,
    /// When its latest attempt was due, if later than it was enqueued.
    #[serde(serialize_with = "times::maybe_millis")]
    pub due_at: Option<i64>,
    /// The trace it belongs to (W3C `traceparent`).
    pub traceparent: Option<String>,
    /// The id of the request that caused it, if any.
    pub request_id: Option<String>,
    /// Previous failures, oldest first; the last ten.
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
            request_id: envelope.request_id,
            failures: envelope.failures,
            payload: envelope.payload,
        }
    }
}

impl JobView {
    /// Details of the job, if its bytes are readable.
    pub fn details(&self) -> Option<&Details> {
        match &self.content {
            Content::Job(details) => Some(details),
            Content::Unreadable { .. } => None,
        }
    }

    /// Whether an attempt has failed.
    pub fn has_failed(&self) -> bool {
        self.details().is_some_and(|details| !details.failures.is_empty())
    }

    /// Why it is dead, or its last failure.
    pub fn error(&self) -> Option<&str> {
        match &self.status {
            JobStatus::Dead { error, .. } => Some(error),
            _ => self.details()?.failures.last().map(|failure| failure.error.as_str()),
        }
    }

    /// When it was enqueued, or, for a dead letter, when it died; in milliseconds since the epoch.
    pub fn since(&self) -> Option<i64> {
        match &self.status {
            JobStatus::Dead { died_at, .. } => Some(*died_at),
            _ => self.details().map(|details| details.enqueued_at),
        }
    }

    pub(super) fn of_found(queue: Queue, found: Found) -> Self {
        let status = match found.spot {
            Spot::Ready(entry) => JobStatus::Ready { ready_at: entry_millis(&entry) },
            Spot::Running { entry, consumer, silence, deliveries } => {
                let silence_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
                JobStatus::Running {
                    consumer,
                    ready_at: entry_millis(&entry),
                    silence_ms,
                    deliveries,
                }
            }
            Spot::Held => JobStatus::Held,
            Spot::Delayed(until) => JobStatus::Delayed { until },
            Spot::Dead(died_at, member) => {
                return DeadLetter::of_stored(member, &found.body, died_at).view(queue);
            }
        };
        let content = match Envelope::from_bytes(&found.body) {
            Ok(envelope) => Content::Job(Box::new(envelope.into())),
            Err(_) => Content::Unreadable { bytes: DeadLetter::encode(&found.body) },
        };
        Self { id: found.id, queue, status, content }
    }

    /// Fails if the row's payload is not JSON.
    pub(super) fn of_row(queue: Queue, row: &OutboxRow) -> Result<Self, serde_json::Error> {
        if row.dead_at.is_some() {
            return Ok(DeadLetter::of_row(row)?.view(queue));
        }
        let content = Content::Job(Box::new(Envelope::of_row(row)?.into()));
        Ok(Self { id: Some(row.id), queue, status: JobStatus::Staged, content })
    }
}

/// Selects jobs; all given conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only these jobs; all if empty.
    pub ids: Vec<JobId>,
    /// Jobs of this kind.
    pub kind: Option<String>,
    /// Jobs of this tenant.
    pub tenant: Option<TenantId>,
    /// Jobs that the request with this id caused.
    pub request_id: Option<String>,
    /// Jobs with this text in their last error.
    pub error: Option<String>,
    /// Enqueued before this time, or, for dead letters, died before it; in milliseconds since the
    /// epoch.
    pub before: Option<i64>,
}

impl JobFilter {
    /// Whether `job` matches.
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
        let of_request = self.request_id.is_none()
            || details.is_some_and(|details| details.request_id == self.request_id);
        let of_error = self
            .error
            .as_deref()
            .is_none_or(|error| job.error().is_some_and(|text| text.contains(error)));
        of_ids
            && of_kind
            && of_tenant
            && of_request
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
