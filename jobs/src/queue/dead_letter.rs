//! Dead letters: jobs that will not be tried again, kept with all that happened to them.

use base64::{Engine, engine::general_purpose::STANDARD};
use common::id::JobId;
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

use crate::{Envelope, Failure, outbox::OutboxRow};

/// A job that will not be tried again, as it is kept and shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The job's id; none for bytes that could not be understood.
    pub id: Option<JobId>,
    /// What it is; none for bytes that could not be understood.
    pub kind: Option<String>,
    /// Why it is dead.
    pub error: String,
    /// When it died, milliseconds since the epoch.
    pub died_at: i64,
    /// What went wrong at each attempt, oldest first; bounded.
    pub failures: Vec<Failure>,
    /// The whole envelope, for another try.
    pub envelope: Option<Envelope>,
    /// The bytes that could not be understood, in base64.
    pub bytes: Option<String>,
}

impl DeadLetter {
    /// The dead letter of a job.
    pub(crate) fn of_job(envelope: &Envelope, error: &str, now_ms: i64) -> Self {
        let mut envelope = envelope.clone();
        envelope.note_failure(now_ms, error);
        Self {
            id: Some(envelope.id),
            kind: Some(envelope.kind.clone()),
            error: error.to_owned(),
            died_at: now_ms,
            failures: envelope.failures.clone(),
            envelope: Some(envelope),
            bytes: None,
        }
    }

    /// The dead letter of a staged job, from its row.
    ///
    /// # Errors
    /// When the row's payload is not JSON.
    pub(crate) fn of_row(row: &OutboxRow) -> Result<Self, serde_json::Error> {
        let envelope = row.envelope()?;
        Ok(Self {
            id: Some(row.id),
            kind: Some(row.kind.clone()),
            error: row.failures.last().map(|failure| failure.error.clone()).unwrap_or_default(),
            died_at: row.dead_at.map_or(0, DateTime::timestamp_millis),
            failures: row.failures.clone(),
            envelope: Some(envelope),
            bytes: None,
        })
    }

    /// The dead letter of bytes that could not be understood.
    pub(super) fn of_bytes(bytes: &[u8], error: &str, now_ms: i64) -> Self {
        let bytes = Some(STANDARD.encode(bytes));
        Self { id: None, kind: None, error: error.to_owned(), died_at: now_ms, failures: Vec::new(), envelope: None, bytes }
    }

    /// As bytes for Redis.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}").into_bytes())
    }
}
