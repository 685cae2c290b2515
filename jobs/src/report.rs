//! What a handler reports in addition to success or failure.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::JobError;

/// Maximum size of a result in bytes of JSON: a short outcome, not the place to store data.
pub const RESULT_BYTES_MAX: usize = 4 * 1024;

/// Maximum length of a progress note in characters.
const NOTE_CHARS_MAX: usize = 200;

/// How far a job is and what it is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Units of work done.
    pub done: u64,
    /// Total units of work; zero if unknown.
    pub total: u64,
    /// What the job is doing, for people; bounded.
    pub note: String,
}

/// Why a result is not kept.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// It cannot be serialized.
    #[error("the result cannot be serialized as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is larger than [`RESULT_BYTES_MAX`].
    #[error(
        "the result has {bytes} bytes of JSON, at most {RESULT_BYTES_MAX} are kept; store it elsewhere and report its id"
    )]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
}

impl From<ResultError> for JobError {
    /// Fails the job: another attempt would report the same.
    fn from(error: ResultError) -> Self {
        Self::fail(error)
    }
}

/// What an attempt has reported so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    result: Mutex<Option<String>>,
    /// The latest step that was not written yet.
    step: Mutex<Option<Step>>,
    has_stepped: AtomicBool,
    stepped: Notify,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Report {
    /// Records a result, replacing the previous one.
    pub(crate) fn set_result<T: Serialize + ?Sized>(&self, result: &T) -> Result<(), ResultError> {
        let json = serde_json::to_string(result)?;
        if json.len() > RESULT_BYTES_MAX {
            return Err(ResultError::TooLarge { bytes: json.len() });
        }
        *locked(&self.result) = Some(json);
        Ok(())
    }

    /// Takes the result.
    pub(crate) fn take_result(&self) -> Option<String> {
        locked(&self.result).take()
    }

    /// Records a step, replacing one that was not written yet.
    pub(crate) fn set_step(&self, done: u64, total: u64, note: &str) {
        let note = note.chars().take(NOTE_CHARS_MAX).collect();
        *locked(&self.step) = Some(Step { done, total, note });
        self.has_stepped.store(true, Ordering::Relaxed);
        self.stepped.notify_one();
    }

    /// Whether any step was reported.
    pub(crate) fn has_stepped(&self) -> bool {
        self.has_stepped.load(Ordering::Relaxed)
    }

    /// Waits for a step that was not taken yet, and takes the latest.
    pub(crate) async fn next_step(&self) -> Step {
        loop {
            let step = locked(&self.step).take();
            match step {
                Some(step) => return step,
                None => self.stepped.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_last_step_is_kept_and_its_note_is_bounded() {
        let report = Report::default();
        assert!(!report.has_stepped());
        report.set_step(1, 9, "begun");
        report.set_step(2, 9, &"é".repeat(NOTE_CHARS_MAX + 1));
        let step = report.next_step().await;
        assert_eq!((step.done, step.total, step.note), (2, 9, "é".repeat(NOTE_CHARS_MAX)));
        // Each step is taken once.
        assert!(futures::FutureExt::now_or_never(report.next_step()).is_none());
        assert!(report.has_stepped());
    }

    #[test]
    fn only_the_last_result_is_kept_and_it_is_bounded() {
        let report = Report::default();
        assert_eq!(report.take_result(), None);
        report.set_result(&1).unwrap();
        report.set_result("done").unwrap();
        let large = "x".repeat(RESULT_BYTES_MAX - 1);
        assert!(
            matches!(report.set_result(&large), Err(ResultError::TooLarge { bytes }) if bytes == RESULT_BYTES_MAX + 1)
        );
        assert_eq!(report.take_result().as_deref(), Some("\"done\""));
    }
}
