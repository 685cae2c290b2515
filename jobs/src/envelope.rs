//! Envelopes: a job with everything that running it needs, as one JSON object in Redis.

use common::{
    crypto::MacKey,
    id::{JobId, TenantId},
    telemetry::trace,
};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize, ser::Error as _};
use serde_json::value::RawValue;

use crate::{BoxError, Job, outbox::OutboxRow, unique::UniqueKey};

/// Maximum size of a job's payload in bytes of JSON: far more than ids need, and far below the
/// limits of a MongoDB document and a page of the relay.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Failures kept in an envelope; the oldest are dropped first.
const FAILURES_MAX: usize = 10;
/// Maximum length of a failure's text in characters.
const FAILURE_CHARS_MAX: usize = 500;

/// A job on its way through Redis.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    /// Id of the job, assigned when it is staged and the same for every attempt.
    pub id: JobId,
    /// Kind of the job.
    pub kind: String,
    /// Version of the payload's format.
    #[serde(rename = "v", default = "first", skip_serializing_if = "is_first")]
    pub version: u16,
    /// The tenant it belongs to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Number of the attempt, from 1.
    #[serde(default = "first_attempt", skip_serializing_if = "is_first_attempt")]
    pub attempt: u32,
    /// When it was staged or enqueued, in milliseconds since the epoch.
    pub enqueued_at: i64,
    /// When it should start, if later than it was enqueued; in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<i64>,
    /// When a worker first did not know its kind or version, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked_at: Option<i64>,
    /// The trace it belongs to (W3C `traceparent`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The id of the request that caused it, if any.
    #[serde(default, rename = "request", skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Its unique key, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unique: Option<UniqueKey>,
    /// Whether it has a row in the outbox.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
    /// Whether it may have run before, so that its outbox row must be checked before it runs.
    #[serde(default, rename = "again", skip_serializing_if = "std::ops::Not::not")]
    pub redelivered: bool,
    /// Previous failures, oldest first; bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
    /// The signature of everything that decides what the job does; made when it is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The job itself.
    pub payload: Box<RawValue>,
}

/// Who created an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signature {
    /// A process that holds the key.
    Valid,
    /// Unknown: an older release does not sign.
    Missing,
    /// Somebody without the key.
    Invalid,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// When it failed, in milliseconds since the epoch.
    pub at: i64,
    /// The error with its causes.
    pub error: String,
}

/// A payload that cannot be deserialized.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    /// It has another format.
    #[error("the payload does not have the format of {kind}: {source}")]
    Shape {
        /// Kind of the job.
        kind: &'static str,
        source: serde_json::Error,
    },
    /// Converting it from an older version failed.
    #[error("the payload of {kind} cannot be converted from version {from} to {}: {source}", .from + 1)]
    Upcast {
        /// Kind of the job.
        kind: &'static str,
        /// The version that could not be converted.
        from: u16,
        source: BoxError,
    },
}

/// Shortens the text of a failure to what is kept.
pub(crate) fn bounded(error: &str) -> String {
    error.chars().take(FAILURE_CHARS_MAX).collect()
}

const fn first() -> u16 {
    1
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_first(version: &u16) -> bool {
    *version == 1
}
const fn first_attempt() -> u32 {
    1
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_first_attempt(attempt: &u32) -> bool {
    *attempt == 1
}

/// A job as JSON. Fails if it cannot be serialized or is longer than [`PAYLOAD_BYTES_MAX`].
pub(crate) fn payload_of<J: Job>(job: &J) -> Result<String, serde_json::Error> {
    let payload = serde_json::to_string(job)?;
    if payload.len() > PAYLOAD_BYTES_MAX {
        let message = format!(
            "its payload has {} bytes, at most {PAYLOAD_BYTES_MAX} are allowed; put ids into it instead of data",
            payload.len()
        );
        return Err(serde_json::Error::custom(message));
    }
    Ok(payload)
}

impl Envelope {
    /// The envelope of a job's first attempt. Fails if the job cannot be serialized or its payload
    /// exceeds [`PAYLOAD_BYTES_MAX`].
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
            traceparent: trace::current_traceparent(),
            request_id: trace::current_request_id(),
            unique: job.unique().map(|unique| UniqueKey::new(J::KIND, tenant, &unique)),
            staged: false,
            redelivered: false,
            failures: Vec::new(),
            mac: None,
            payload: RawValue::from_string(payload_of(job)?)?,
        })
    }

    /// The envelope of a staged job's first attempt. Fails if the row's payload is not JSON.
    pub(crate) fn of_row(row: &OutboxRow) -> Result<Self, serde_json::Error> {
        Ok(Self {
            id: row.id,
            kind: row.kind.clone(),
            version: row.version,
            tenant: row.tenant_id,
            attempt: 1,
            enqueued_at: row.staged_at.timestamp_millis(),
            due_at: row.due_at.map(DateTime::timestamp_millis),
            parked_at: None,
            traceparent: row.traceparent.clone(),
            request_id: row.request_id.clone(),
            unique: row.unique.clone(),
            staged: true,
            redelivered: false,
            failures: row.failures.clone(),
            mac: None,
            payload: RawValue::from_string(row.payload.clone())?,
        })
    }

    /// Signs it, so that write access to Redis is not enough to make a worker run another job. The
    /// attempt, the times and the failures change while it is in Redis and are not signed.
    pub(crate) fn signed(self, key: &MacKey) -> Self {
        Self { mac: Some(self.mac_by(key)), ..self }
    }

    /// Its signature with `key`.
    pub(crate) fn mac_by(&self, key: &MacKey) -> String {
        self.with_parts(|parts| key.sign(parts))
    }

    /// Whether it was signed with `key`.
    pub(crate) fn signature(&self, key: &MacKey) -> Signature {
        match &self.mac {
            None => Signature::Missing,
            Some(mac) if self.with_parts(|parts| key.verifies(parts, mac)) => Signature::Valid,
            Some(_) => Signature::Invalid,
        }
    }

    /// Calls `then` with everything that decides what the job does.
    fn with_parts<T>(&self, then: impl FnOnce(&[&[u8]]) -> T) -> T {
        let tenant = self.tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
        let unique = self.unique.as_ref();
        then(&[
            self.id.to_string().as_bytes(),
            self.kind.as_bytes(),
            &self.version.to_le_bytes(),
            tenant.as_bytes(),
            &[u8::from(self.staged)],
            unique.map_or("", UniqueKey::as_str).as_bytes(),
            self.payload.get().as_bytes(),
        ])
    }

    /// Serializes it for Redis.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Parses bytes from Redis.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The job itself, converted to the current version if an older release staged it.
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

    /// The same job before its first attempt, keeping its previous failures.
    pub(crate) fn for_replay(self) -> Self {
        Self { attempt: 1, due_at: None, parked_at: None, ..self }
    }

    /// When the job could have started, in milliseconds since the epoch.
    pub(crate) fn startable_at(&self) -> i64 {
        self.due_at.unwrap_or(self.enqueued_at)
    }

    /// From when on its effect was wanted, in milliseconds since the epoch: since it could start for
    /// the first time. Of a job that was retried, only its first failure is known.
    pub(crate) fn wanted_at(&self) -> i64 {
        self.failures.first().map_or_else(|| self.startable_at(), |first| first.at)
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
    use base64::Engine;
    use common::crypto::MasterKey;

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
            request_id: None,
            unique: None,
            staged: false,
            redelivered: false,
            failures: Vec::new(),
            mac: None,
            payload: RawValue::from_string("{\"n\":1}".to_owned()).unwrap(),
        }
    }

    #[test]
    fn a_new_envelope_is_small_and_survives_a_round_trip() {
        let bytes = envelope().to_bytes().unwrap();
        assert!(bytes.len() < 120, "{}", String::from_utf8(bytes).unwrap());
        let signed = envelope().signed(&key(1)).to_bytes().unwrap();
        assert!(signed.len() < 150, "{}", String::from_utf8(signed).unwrap());
        let back = Envelope::from_bytes(&bytes).unwrap();
        assert_eq!((back.version, back.attempt, back.payload.get()), (1, 1, "{\"n\":1}"));
    }

    fn key(byte: u8) -> MacKey {
        let base64 = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
        MasterKey::parse(&base64).unwrap().mac_key("job-envelope")
    }

    #[test]
    fn a_signature_covers_everything_that_decides_what_the_job_does() {
        let signed = || envelope().signed(&key(1));
        assert_eq!(envelope().signature(&key(1)), Signature::Missing);
        assert_eq!(signed().signature(&key(1)), Signature::Valid);
        assert_eq!(signed().signature(&key(2)), Signature::Invalid);
        let unique = crate::Unique { key: "k".to_owned(), window: crate::Window::UntilStarted };
        let altered = [
            Envelope { id: JobId::from_uuid(uuid::Uuid::max()), ..signed() },
            Envelope { kind: "test.other".to_owned(), ..signed() },
            Envelope { version: 2, ..signed() },
            Envelope { tenant: Some(TenantId::from_uuid(uuid::Uuid::nil())), ..signed() },
            Envelope { staged: true, ..signed() },
            Envelope { unique: Some(UniqueKey::new("k", None, &unique)), ..signed() },
            Envelope {
                payload: RawValue::from_string("{\"n\":2}".to_owned()).unwrap(),
                ..signed()
            },
        ];
        for altered in altered {
            assert_eq!(altered.signature(&key(1)), Signature::Invalid, "{altered:?}");
        }
        let mut retried = Envelope { attempt: 2, redelivered: true, ..signed() };
        retried.note_failure(9, "timed out");
        let bytes = retried.to_bytes().unwrap();
        assert_eq!(Envelope::from_bytes(&bytes).unwrap().signature(&key(1)), Signature::Valid);
    }

    /// Version 3; version 1 had one name, version 2 split it.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Greet {
        first: String,
        last: String,
        language: String,
    }

    impl Job for Greet {
        const KIND: &'static str = "test.greet";
        const QUEUE: crate::Queue = crate::test_queues::EMAIL;
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
    fn an_old_payload_is_converted_version_by_version() {
        let ann =
            || Greet { first: "Ann".to_owned(), last: "Lee".to_owned(), language: "en".to_owned() };
        assert_eq!(greeting(1, r#"{"name":"Ann Lee"}"#).job::<Greet>().unwrap(), ann());
        assert_eq!(greeting(2, r#"{"first":"Ann","last":"Lee"}"#).job::<Greet>().unwrap(), ann());
    }

    #[test]
    fn a_failed_conversion_names_its_version() {
        let failed = greeting(1, r#"{"name":"Ann"}"#).job::<Greet>().unwrap_err();
        assert_eq!(
            failed.to_string(),
            "the payload of test.greet cannot be converted from version 1 to 2: one word"
        );
        let failed = greeting(2, "[]").job::<Greet>().unwrap_err();
        assert_eq!(
            failed.to_string(),
            "the payload of test.greet cannot be converted from version 2 to 3: no object"
        );
    }

    /// A payload of the current version is deserialized directly, so that even its exact text
    /// survives.
    #[test]
    fn a_payload_of_the_current_version_is_parsed_once() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Verbatim {
            raw: Box<RawValue>,
        }
        impl Job for Verbatim {
            const KIND: &'static str = "test.verbatim";
            const QUEUE: crate::Queue = crate::test_queues::EMAIL;

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
