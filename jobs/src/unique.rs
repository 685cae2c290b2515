//! Unique jobs: while one holds its key, other jobs with the same key are dropped.

use std::time::Duration;

use common::id::TenantId;
use serde::{Deserialize, Serialize};

/// Maximum size of a key that is stored as is; longer keys are hashed.
const KEY_BYTES_MAX: usize = 128;

/// The unique key of a job, and how long it is held.
///
/// The key is acquired when the job is enqueued in Redis, which is after the transaction that
/// staged it, and it applies within the job's kind and tenant. The window decides which changes
/// cause another job: with [`Window::UntilStarted`] a change made while the job waits is seen by
/// it, and one made while it runs gets a job of its own; with [`Window::UntilFinished`] the latter
/// does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// Distinguishes this job from others of its kind.
    pub key: String,
    /// How long other jobs with the same key are dropped.
    pub window: Window,
}

/// How long a unique key is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// From enqueueing until the first attempt starts.
    UntilStarted,
    /// Until the job has finished or become a dead letter.
    UntilFinished,
    /// For this long after enqueueing, whatever happens to the job.
    For(Duration),
}

/// A unique key as stored: window, kind, tenant (empty for none) and key, separated by colons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct UniqueKey(String);

impl UniqueKey {
    /// The key of a job of `kind` for `tenant`: jobs of different tenants never affect each other.
    pub(crate) fn new(kind: &str, tenant: Option<TenantId>, unique: &Unique) -> Self {
        let window = match unique.window {
            Window::UntilStarted => "s".to_owned(),
            Window::UntilFinished => "f".to_owned(),
            Window::For(span) => span.as_millis().to_string(),
        };
        let tenant = tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
        if unique.key.len() <= KEY_BYTES_MAX {
            return Self(format!("{window}:{kind}:{tenant}:{}", unique.key));
        }
        Self(format!(
            "{window}:{kind}:{tenant}:{}",
            common::crypto::fingerprint(unique.key.as_bytes())
        ))
    }

    /// Window and key, as the scripts expect them.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The key, if it is released when its job starts.
    pub(crate) fn held_until_start(&self) -> Option<&str> {
        self.0.strip_prefix("s:")
    }

    /// The key, if it is released when its job ends; a job that never started still holds it.
    pub(crate) fn held_until_end(&self) -> Option<&str> {
        self.0.strip_prefix("f:").or_else(|| self.held_until_start())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_contains_its_window_and_is_bounded() {
        let key = |window, key: &str| {
            UniqueKey::new("test.probe", None, &Unique { key: key.to_owned(), window })
        };
        assert_eq!(key(Window::UntilStarted, "a").as_str(), "s:test.probe::a");
        assert_eq!(key(Window::UntilFinished, "a:b").held_until_end(), Some("test.probe::a:b"));
        assert_eq!(key(Window::UntilFinished, "a").held_until_start(), None);
        assert_eq!(key(Window::For(Duration::from_secs(2)), "a").as_str(), "2000:test.probe::a");
        assert_eq!(key(Window::For(Duration::from_secs(2)), "a").held_until_end(), None);
        assert!(key(Window::UntilStarted, &"x".repeat(10_000)).as_str().len() < 100);
        assert_ne!(
            key(Window::UntilStarted, &"x".repeat(200)),
            key(Window::UntilStarted, &"x".repeat(201))
        );
    }
}
