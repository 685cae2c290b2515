//! Time, ids and randomness of a process, behind one handle.
//!
//! Everything that would make two runs differ comes from a [`Clock`], so that a test can fix it.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};
use std::{str::FromStr, time::Duration};

use mongodb::bson::DateTime;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::id::{Id, Prefix};

/// The source of time and randomness. Cheap to clone; clones share one clock.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: Source,
    /// Time and counter of the last id, as [`next_tick`] makes them.
    last_tick: AtomicU64,
}

#[derive(Debug)]
enum Source {
    System,
    Manual(AtomicI64),
}

/// Bits of a `UUIDv7` that count the ids of one millisecond.
const COUNTER_BITS: u32 = 12;

impl Clock {
    /// The machine's clock and the operating system's randomness.
    pub fn system() -> Self {
        Self::new(Source::System)
    }

    /// A clock that stays at `now` until [`Clock::advance`] moves it.
    pub fn manual(now: DateTime) -> Self {
        Self::new(Source::Manual(AtomicI64::new(now.timestamp_millis())))
    }

    fn new(source: Source) -> Self {
        Self(Arc::new(Shared { source, last_tick: AtomicU64::new(0) }))
    }

    /// Moves a manual clock forward. Has no effect on the system clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(millis) = &self.0.source {
            millis.fetch_add(millis_of(by), Ordering::Relaxed);
        }
    }

    /// The current time, to the millisecond.
    pub fn now(&self) -> DateTime {
        match &self.0.source {
            Source::System => DateTime::now(),
            Source::Manual(millis) => DateTime::from_millis(millis.load(Ordering::Relaxed)),
        }
    }

    /// A new time-ordered id (`UUIDv7`, RFC 9562) of kind `P`; see [`Clock::uuid`].
    pub fn id<P: Prefix>(&self) -> Id<P> {
        Id::from_uuid(self.uuid())
    }

    /// A new `UUIDv7`, greater than every earlier one of this clock: a counter orders those of one
    /// millisecond (RFC 9562, section 6.2, method 1).
    pub fn uuid(&self) -> Uuid {
        let millis = u64::try_from(self.now().timestamp_millis()).unwrap_or_default();
        let mut bytes = self.random::<10>();
        let random = u16::from_be_bytes([bytes[0], bytes[1]]);
        let last = self
            .0
            .last_tick
            .update(Ordering::Relaxed, Ordering::Relaxed, |last| next_tick(last, millis, random));
        let tick = next_tick(last, millis, random);
        // The builder replaces the 4 bits above the counter by the version.
        bytes[..2].copy_from_slice(&tick.to_be_bytes()[6..]);
        uuid::Builder::from_unix_timestamp_millis(tick >> COUNTER_BITS, &bytes).into_uuid()
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

/// Time in milliseconds and counter of the id after `last`. The counter of a new millisecond starts
/// at a random number in its lower half, which leaves room for 2,048 ids. If there are more, or the
/// clock was set back, the time in the ids runs ahead of the clock.
fn next_tick(last: u64, millis: u64, random: u16) -> u64 {
    let first = (millis << COUNTER_BITS) | u64::from(random >> 5);
    first.max(last.saturating_add(1))
}

/// A duration in whole milliseconds, saturating.
pub fn millis_of(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// The time `by` after `at`.
pub fn later(at: DateTime, by: Duration) -> DateTime {
    DateTime::from_millis(at.timestamp_millis().saturating_add(millis_of(by)))
}

/// The time `by` before `at`.
pub fn earlier(at: DateTime, by: Duration) -> DateTime {
    DateTime::from_millis(at.timestamp_millis().saturating_sub(millis_of(by)))
}

/// The time from `from` to `to`; zero if `to` is earlier, as clocks that differ may have it.
pub fn between(from: DateTime, to: DateTime) -> Duration {
    let millis = to.timestamp_millis().saturating_sub(from.timestamp_millis());
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

/// A time in the API's responses.
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

impl From<Timestamp> for DateTime {
    fn from(at: Timestamp) -> Self {
        at.0
    }
}

/// The text is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a time such as 2026-11-30T09:00:00Z (RFC 3339)")]
pub struct InvalidTimestamp;

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        DateTime::parse_rfc3339_str(text).map(Self).map_err(|_| InvalidTimestamp)
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
    fn ids_of_one_millisecond_are_in_the_order_they_were_made() {
        let clock = Clock::manual(DateTime::from_millis(1_700_000_000_000));
        // More than the counter of one millisecond holds.
        let ids: Vec<Uuid> = (0..10_000).map(|_| clock.uuid()).collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later));
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
    }

    #[test]
    fn ids_of_threads_that_share_a_clock_differ() {
        let clock = Clock::system();
        let ids = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..5_000).map(|_| clock.uuid()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(ids.iter().all(|own| own.is_sorted_by(|earlier, later| earlier < later)));
        // Without the random half.
        let ticks: std::collections::HashSet<u64> =
            ids.iter().flatten().map(|id| id.as_u64_pair().0).collect();
        assert_eq!(ticks.len(), 20_000);
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
