//! Time, ids and randomness of a process, behind one handle.
//!
//! Everything that would make two runs differ comes from a [`Clock`], so that a test can fix it.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use std::time::Duration;

use mongodb::bson::DateTime;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::id::{Id, Prefix};

/// The source of time and randomness. Cheap to clone; clones share one clock.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    System,
    Manual(AtomicI64),
}

impl Clock {
    /// The machine's clock and the operating system's randomness.
    pub fn system() -> Self {
        Self(Arc::new(Source::System))
    }

    /// A clock that stays at `now` until [`Clock::advance`] moves it.
    pub fn manual(now: DateTime) -> Self {
        Self(Arc::new(Source::Manual(AtomicI64::new(now.timestamp_millis()))))
    }

    /// Moves a manual clock forward. Has no effect on the system clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(millis) = &*self.0 {
            millis.fetch_add(millis_of(by), Ordering::Relaxed);
        }
    }

    /// The current time, to the millisecond.
    pub fn now(&self) -> DateTime {
        match &*self.0 {
            Source::System => DateTime::now(),
            Source::Manual(millis) => DateTime::from_millis(millis.load(Ordering::Relaxed)),
        }
    }

    /// A new time-ordered id (`UUIDv7`, RFC 9562) of kind `P`.
    pub fn id<P: Prefix>(&self) -> Id<P> {
        Id::from_uuid(self.uuid())
    }

    /// A new time-ordered `UUIDv7`.
    pub fn uuid(&self) -> Uuid {
        let millis = u64::try_from(self.now().timestamp_millis()).unwrap_or_default();
        uuid::Builder::from_unix_timestamp_millis(millis, &self.random()).into_uuid()
    }

    /// `N` random bytes from the operating system.
    ///
    /// # Panics
    /// If the operating system cannot provide randomness: nothing can be done safely without it.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        aws_lc_rs::rand::fill(&mut bytes).expect("the operating system provides randomness");
        bytes
    }
}

/// A duration in whole milliseconds, saturating.
pub fn millis_of(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// The time `by` after `at`.
pub fn later(at: DateTime, by: Duration) -> DateTime {
    DateTime::from_millis(at.timestamp_millis().saturating_add(millis_of(by)))
}

/// `at` moved `by` into the past.
pub fn earlier(at: DateTime, by: Duration) -> DateTime {
    DateTime::from_millis(at.timestamp_millis().saturating_sub(millis_of(by)))
}

/// The time from `from` to `to`; zero if `to` is earlier, as clocks that differ may have it.
pub fn between(from: DateTime, to: DateTime) -> Duration {
    let millis = to.timestamp_millis().saturating_sub(from.timestamp_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

/// A time as the API answers it.
#[derive(Debug, Clone, Copy, ToSchema)]
#[schema(
    value_type = String,
    description = "Time in UTC (RFC 3339).",
    format = DateTime,
    example = "2026-11-30T09:00:00Z"
)]
pub struct Timestamp(DateTime);

impl From<DateTime> for Timestamp {
    fn from(at: DateTime) -> Self {
        Self(at)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339(self.0))
    }
}

/// RFC 3339 in UTC, the format of every time in the API's responses.
pub fn rfc3339(at: DateTime) -> String {
    at.try_to_rfc3339_string().unwrap_or_default()
}

/// As [`rfc3339`], but always with milliseconds, so that times align in a column and sort as text.
pub fn rfc3339_millis(at: DateTime) -> String {
    let text = rfc3339(at);
    let (seconds, fraction) =
        text.trim_end_matches('Z').split_once('.').unwrap_or((text.trim_end_matches('Z'), ""));
    format!("{seconds}.{fraction:0<3}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::UserId;

    #[test]
    fn ids_sort_by_time() {
        let clock = Clock::manual(DateTime::from_millis(1_700_000_000_000));
        let first: UserId = clock.id();
        clock.advance(Duration::from_millis(1));
        let second: UserId = clock.id();
        assert!(first.to_string() < second.to_string());
    }

    #[test]
    fn manual_clock_stands_still_until_advanced() {
        let clock = Clock::manual(DateTime::from_millis(5));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.now().timestamp_millis(), 1_005);
    }

    #[test]
    fn times_with_milliseconds_have_one_width() {
        let written = [0, 40, 120, 999].map(|millis| rfc3339_millis(DateTime::from_millis(millis)));
        let fractions = [".000Z", ".040Z", ".120Z", ".999Z"]
            .map(|fraction| format!("1970-01-01T00:00:00{fraction}"));
        assert_eq!(written, fractions);
    }
}
