//! What a handler reports beside success or failure.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::JobError;

/// The most that a result may have, in bytes of JSON: it says what came out of a job and is not
/// where that is kept.
pub const RESULT_BYTES_MAX: usize = 4 * 1024;

/// A result that is not kept.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// It cannot be written as JSON.
    #[error("the result cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It has more than [`RESULT_BYTES_MAX`].
    #[error("the result has {bytes} bytes of JSON, at most {RESULT_BYTES_MAX} are kept: store it elsewhere and answer its id")]
    TooLarge {
        /// How many it has.
        bytes: usize,
    },
}

impl From<ResultError> for JobError {
    /// Another attempt would answer the same.
    fn from(error: ResultError) -> Self {
        Self::fail(error)
    }
}

/// What one attempt has reported so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    result: Mutex<Option<String>>,
}

impl Report {
    /// Notes a result in place of what was noted before.
    ///
    /// # Errors
    /// See [`ResultError`].
    pub(crate) fn set_result<T: Serialize + ?Sized>(&self, result: &T) -> Result<(), ResultError> {
        let json = serde_json::to_string(result)?;
        if json.len() > RESULT_BYTES_MAX {
            return Err(ResultError::TooLarge { bytes: json.len() });
        }
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(json);
        Ok(())
    }

    /// The result, which is then no longer here.
    pub(crate) fn take_result(&self) -> Option<String> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_result_counts_and_is_bounded() {
        let report = Report::default();
        assert_eq!(report.take_result(), None);
        report.set_result(&1).unwrap();
        report.set_result("done").unwrap();
        let large = "x".repeat(RESULT_BYTES_MAX - 1);
        assert!(matches!(report.set_result(&large), Err(ResultError::TooLarge { bytes }) if bytes == RESULT_BYTES_MAX + 1));
        assert_eq!(report.take_result().as_deref(), Some("\"done\""));
    }
}
