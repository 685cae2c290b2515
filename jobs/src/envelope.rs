//! What travels through Redis: a job with all that running it needs, as one JSON object.

use common::id::{JobId, TenantId};
use serde::{Deserialize, Serialize, ser::Error as _};
use serde_json::value::RawValue;

use crate::{BoxError, Job, unique::UniqueKey};

/// The longest payload of a job, in bytes of JSON: far more than ids need, and far less than what a
/// row of MongoDB or a page of the relay could not carry.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
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
    /// When a worker first did not know its kind or version, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked_at: Option<i64>,
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

/// A payload that cannot be made into its job.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    /// It has another shape.
    #[error("the payload is not a {kind}: {source}")]
    Shape {
        /// What it should be.
        kind: &'static str,
        source: serde_json::Error,
    },
    /// A step from an older version to the next failed.
    #[error("the payload of a {kind} cannot be brought from version {from} to {}: {source}", .from + 1)]
    Upcast {
        /// What it is.
        kind: &'static str,
        /// The version that could not be left.
        from: u16,
        source: BoxError,
    },
}

/// As much of a failure's text as is kept.
pub(crate) fn bounded(error: &str) -> String {
    error.chars().take(FAILURE_CHARS_MAX).collect()
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

/// A job as JSON.
///
/// # Errors
/// When it cannot be written, or is longer than [`PAYLOAD_BYTES_MAX`].
pub(crate) fn payload_of<J: Job>(job: &J) -> Result<String, serde_json::Error> {
    let payload = serde_json::to_string(job)?;
    if payload.len() > PAYLOAD_BYTES_MAX {
        let told = format!(
            "its payload has {} bytes, at most {PAYLOAD_BYTES_MAX} are taken: put ids into it, not what they name",
            payload.len()
        );
        return Err(serde_json::Error::custom(told));
    }
    Ok(payload)
}

impl Envelope {
    /// An envelope for a job's first attempt.
    ///
    /// # Errors
    /// When the job cannot be written as JSON, or has more than [`PAYLOAD_BYTES_MAX`] of it.
    pub fn new<J: Job>(
        id: JobId,
        tenant: Option<TenantId>,
        job: &J,
        now_ms: i64,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self {
            id,
            kind: J::KIND.to_owned(),
            version: J::VERSION,
            tenant,
            attempt: 1,
            enqueued_at: now_ms,
            due_at: None,
            parked_at: None,
            traceparent: common::telemetry::trace::current_traceparent(),
            unique: job.unique().map(|unique| UniqueKey::new(J::KIND, tenant, &unique)),
            staged: false,
            redelivered: false,
            failures: Vec::new(),
            payload: RawValue::from_string(payload_of(job)?)?,
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

    /// The job itself, brought up to date when an older release staged it.
    ///
    /// # Errors
    /// See [`PayloadError`].
    pub(crate) fn job<J: Job>(&self) -> Result<J, PayloadError> {
        let shape = |source| PayloadError::Shape { kind: J::KIND, source };
        if self.version >= J::VERSION {
            return serde_json::from_str(self.payload.get()).map_err(shape);
        }
        let mut payload = serde_json::from_str(self.payload.get()).map_err(shape)?;
        for from in self.version..J::VERSION {
            payload = J::upcast(from, payload).map_err(|source| PayloadError::Upcast {
                kind: J::KIND,
                from,
                source,
            })?;
        }
        serde_json::from_value(payload).map_err(shape)
    }

    /// The same job as if it had never been tried, but with its history.
    pub(crate) fn anew(self) -> Self {
        Self { attempt: 1, due_at: None, parked_at: None, ..self }
    }

    /// When the job could have started, milliseconds since the epoch.
    pub(crate) fn startable_at(&self) -> i64 {
        self.due_at.unwrap_or(self.enqueued_at)
    }

    /// Adds a failure of the current attempt.
    pub(crate) fn note_failure(&mut self, now_ms: i64, error: &str) {
        self.failures.push(Failure { attempt: self.attempt, at: now_ms, error: bounded(error) });
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
            parked_at: None,
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

    /// In its third version; the first knew one name, the second split it.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Greet {
        first: String,
        last: String,
        language: String,
    }

    impl Job for Greet {
        const KIND: &'static str = "test.greet";
        const QUEUE: crate::Queue = crate::Queue::Email;
        const VERSION: u16 = 3;

        fn upcast(
            from: u16,
            mut payload: serde_json::Value,
        ) -> Result<serde_json::Value, BoxError> {
            if from == 1 {
                let name = payload["name"].as_str().ok_or("no name")?;
                let (first, last) = name.split_once(' ').ok_or("one word")?;
                return Ok(serde_json::json!({ "first": first, "last": last }));
            }
            payload.as_object_mut().ok_or("no object")?.insert("language".to_owned(), "en".into());
            Ok(payload)
        }
    }

    fn greeting(version: u16, payload: &str) -> Envelope {
        Envelope {
            version,
            payload: RawValue::from_string(payload.to_owned()).unwrap(),
            ..envelope()
        }
    }

    #[test]
    fn a_payload_is_brought_up_to_date_step_by_step() {
        let ann =
            || Greet { first: "Ann".to_owned(), last: "Lee".to_owned(), language: "en".to_owned() };
        assert_eq!(greeting(1, r#"{"name":"Ann Lee"}"#).job::<Greet>().unwrap(), ann());
        assert_eq!(greeting(2, r#"{"first":"Ann","last":"Lee"}"#).job::<Greet>().unwrap(), ann());
    }

    #[test]
    fn a_step_that_fails_is_told_with_its_version() {
        let failed = greeting(1, r#"{"name":"Ann"}"#).job::<Greet>().unwrap_err();
        assert_eq!(
            failed.to_string(),
            "the payload of a test.greet cannot be brought from version 1 to 2: one word"
        );
        let failed = greeting(2, "[]").job::<Greet>().unwrap_err();
        assert_eq!(
            failed.to_string(),
            "the payload of a test.greet cannot be brought from version 2 to 3: no object"
        );
    }

    /// A payload of the current version goes straight into its type: its very text arrives.
    #[test]
    fn a_payload_of_the_current_version_is_parsed_once() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Verbatim {
            raw: Box<RawValue>,
        }
        impl Job for Verbatim {
            const KIND: &'static str = "test.verbatim";
            const QUEUE: crate::Queue = crate::Queue::Email;

            fn upcast(_: u16, _: serde_json::Value) -> Result<serde_json::Value, BoxError> {
                Err("not called".into())
            }
        }
        let job: Verbatim = greeting(1, r#"{"raw":[1 ,  2]}"#).job().unwrap();
        assert_eq!(job.raw.get(), "[1 ,  2]");
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
