//! What travels through Redis: a job with all that running it needs, as one JSON object.

use common::id::{JobId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Job, unique::UniqueKey};

/// Failures kept in an envelope; the oldest go first.
const FAILURES_MAX: usize = 10;
/// The most of one failure's text that is kept, in characters.
const FAILURE_CHARS_MAX: usize = 500;

/// A job under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    /// The job's id; fixed when it was staged, the same over every attempt.
    pub id: JobId,
    /// What it is.
    pub kind: String,
    /// The version of the payload's shape.
    #[serde(rename = "v", default = "first", skip_serializing_if = "is_first")]
    pub version: u16,
    /// The tenant it is done for, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Counts from 1.
    #[serde(default = "first_attempt", skip_serializing_if = "is_first_attempt")]
    pub attempt: u32,
    /// When it was staged or enqueued, milliseconds since the epoch.
    pub enqueued_at: i64,
    /// When it was to start, if later than it was enqueued; milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<i64>,
    /// The trace it belongs to (W3C `traceparent`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What it is unique by, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unique: Option<UniqueKey>,
    /// Whether a row in the outbox stands behind it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
    /// Whether it may have run before: its outbox row is looked at before it runs.
    #[serde(default, rename = "again", skip_serializing_if = "std::ops::Not::not")]
    pub redelivered: bool,
    /// What went wrong before, oldest first; bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// The job itself.
    pub payload: Box<RawValue>,
}

/// One attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which attempt, counted from 1.
    pub attempt: u32,
    /// When it failed, milliseconds since the epoch.
    pub at: i64,
    /// What went wrong, with its causes.
    pub error: String,
}

const fn first() -> u16 {
    1
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_first(version: &u16) -> bool {
    *version == 1
}
const fn first_attempt() -> u32 {
    1
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_first_attempt(attempt: &u32) -> bool {
    *attempt == 1
}

impl Envelope {
    /// An envelope for a job's first attempt.
    ///
    /// # Errors
    /// When the job cannot be written as JSON.
    pub fn new<J: Job>(id: JobId, tenant: Option<TenantId>, job: &J, now_ms: i64) -> Result<Self, serde_json::Error> {
        Ok(Self {
            id,
            kind: J::KIND.to_owned(),
            version: J::VERSION,
            tenant,
            attempt: 1,
            enqueued_at: now_ms,
            due_at: None,
            traceparent: common::telemetry::trace::current_traceparent(),
            unique: job.unique().map(|unique| UniqueKey::new(J::KIND, &unique)),
            staged: false,
            redelivered: false,
            failures: Vec::new(),
            payload: serde_json::value::to_raw_value(job)?,
        })
    }

    /// As bytes for Redis.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which its types rule out.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// From bytes of Redis.
    ///
    /// # Errors
    /// When they are not an envelope.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The same job as if it had never been tried, but with its history.
    pub(crate) fn anew(self) -> Self {
        Self { attempt: 1, due_at: None, ..self }
    }

    /// When the job could have started, milliseconds since the epoch.
    pub(crate) fn startable_at(&self) -> i64 {
        self.due_at.unwrap_or(self.enqueued_at)
    }

    /// Adds a failure of the current attempt.
    pub(crate) fn note_failure(&mut self, now_ms: i64, error: &str) {
        let error = error.chars().take(FAILURE_CHARS_MAX).collect();
        self.failures.push(Failure { attempt: self.attempt, at: now_ms, error });
        let excess = self.failures.len().saturating_sub(FAILURES_MAX);
        self.failures.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            id: JobId::from_uuid(uuid::Uuid::nil()),
            kind: "test.run".to_owned(),
            version: 1,
            tenant: None,
            attempt: 1,
            enqueued_at: 7,
            due_at: None,
            traceparent: None,
            unique: None,
            staged: false,
            redelivered: false,
            failures: Vec::new(),
            payload: RawValue::from_string("{\"n\":1}".to_owned()).unwrap(),
        }
    }

    #[test]
    fn a_fresh_envelope_is_small_and_comes_back_whole() {
        let bytes = envelope().to_bytes().unwrap();
        assert!(bytes.len() < 120, "{}", String::from_utf8(bytes).unwrap());
        let back = Envelope::from_bytes(&bytes).unwrap();
        assert_eq!((back.version, back.attempt, back.payload.get()), (1, 1, "{\"n\":1}"));
    }

    #[test]
    fn failures_are_bounded() {
        let mut envelope = envelope();
        for attempt in 1..=50 {
            envelope.attempt = attempt;
            envelope.note_failure(0, &"x".repeat(10_000));
        }
        assert_eq!(envelope.failures.len(), FAILURES_MAX);
        assert_eq!(envelope.failures.last().unwrap().attempt, 50);
        assert!(envelope.to_bytes().unwrap().len() < FAILURES_MAX * (FAILURE_CHARS_MAX + 100));
    }
}
