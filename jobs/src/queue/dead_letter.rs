//! Dead letters: jobs that will not be retried automatically, kept with all their failures.

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{crypto::MacKey, id::JobId};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

use crate::{
    Content, Envelope, Failure, JobStatus, JobView, Queue, envelope::bounded, outbox::OutboxRow,
};

/// A dead letter as stored and shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Id of the job; none if its bytes are unreadable.
    pub id: Option<JobId>,
    /// Kind of the job; none if its bytes are unreadable.
    pub kind: Option<String>,
    /// Why it is dead.
    pub error: String,
    /// When it died, in milliseconds since the epoch.
    pub died_at: i64,
    /// The failures of its attempts, oldest first; bounded.
    pub failures: Vec<Failure>,
    /// The whole envelope, for a retry.
    pub envelope: Option<Envelope>,
    /// The unreadable bytes, in base64.
    pub bytes: Option<String>,
    /// The member under which Redis stores it; empty before that.
    #[serde(skip)]
    pub(crate) member: Vec<u8>,
}

impl DeadLetter {
    /// The dead letter of a job.
    pub(crate) fn of_job(envelope: &Envelope, error: &str, now_ms: i64) -> Self {
        let mut envelope = envelope.clone();
        envelope.note_failure(now_ms, error);
        Self {
            id: Some(envelope.id),
            kind: Some(envelope.kind.clone()),
            error: bounded(error),
            died_at: now_ms,
            failures: envelope.failures.clone(),
            envelope: Some(envelope),
            bytes: None,
            member: Vec::new(),
        }
    }

    /// The dead letter of a staged job, from its row. Fails if the row's payload is not JSON.
    pub(crate) fn of_row(row: &OutboxRow) -> Result<Self, serde_json::Error> {
        let envelope = Envelope::of_row(row)?;
        Ok(Self {
            id: Some(row.id),
            kind: Some(row.kind.clone()),
            error: row.failures.last().map(|failure| failure.error.clone()).unwrap_or_default(),
            died_at: row.dead_at.map_or(0, DateTime::timestamp_millis),
            failures: row.failures.clone(),
            envelope: Some(envelope),
            bytes: None,
            member: Vec::new(),
        })
    }

    /// Signs its envelope with `key`.
    pub(crate) fn signed(self, key: &MacKey) -> Self {
        Self { envelope: self.envelope.map(|envelope| envelope.signed(key)), ..self }
    }

    /// The dead letter of bytes that could not be parsed.
    pub(super) fn of_bytes(bytes: &[u8], error: &str, now_ms: i64) -> Self {
        let bytes = Some(Self::encode(bytes));
        let (failures, member) = (Vec::new(), Vec::new());
        Self {
            id: None,
            kind: None,
            error: error.to_owned(),
            died_at: now_ms,
            failures,
            envelope: None,
            bytes,
            member,
        }
    }

    /// The dead letter that Redis stores as `stored`, under `member`. If this release cannot parse
    /// it, it is shown as bytes, so that it does not hide the others.
    pub(crate) fn of_stored(member: Vec<u8>, stored: &[u8], died_at: i64) -> Self {
        let unread = |error| {
            Self::of_bytes(stored, &format!("the dead letter cannot be parsed: {error}"), died_at)
        };
        Self { member, ..serde_json::from_slice(stored).unwrap_or_else(unread) }
    }

    /// Converts it to the view of a job of `queue`.
    pub fn view(&self, queue: Queue) -> JobView {
        let status = JobStatus::Dead { died_at: self.died_at, error: self.error.clone() };
        let content = match &self.envelope {
            Some(envelope) => Content::Job(Box::new(envelope.clone().into())),
            None => Content::Unreadable { bytes: self.bytes.clone().unwrap_or_default() },
        };
        JobView { id: self.job(), queue, status, content }
    }

    /// Id of the job. For unreadable bytes it is derived from the member under which Redis stores
    /// them, if possible.
    pub fn job(&self) -> Option<JobId> {
        self.id.or_else(|| uuid::Uuid::from_slice(&self.member).ok().map(JobId::from_uuid))
    }

    /// Bytes as shown to operators.
    pub(crate) fn encode(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    /// Serializes it for Redis.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self)
            .unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}").into_bytes())
    }
}
