//! When each request leaves.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::TIME_MAX;

/// Maximum number of requests in a run.
const REQUESTS_MAX: u32 = 5_000_000;
/// The rates that are reasonable on one machine.
const PER_SECOND_MIN: f64 = 0.1;
const PER_SECOND_MAX: f64 = 100_000.0;

/// Evenly spaced departures, numbered from 0; the first is at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    interval: Duration,
    count: u32,
}

impl Schedule {
    /// `per_second` departures per second, over `time`.
    pub(super) fn new(per_second: f64, time: Duration) -> anyhow::Result<Self> {
        let range = PER_SECOND_MIN..=PER_SECOND_MAX;
        ensure!(
            range.contains(&per_second),
            "{per_second} requests per second are not between {PER_SECOND_MIN} and {PER_SECOND_MAX}"
        );
        ensure!(time <= TIME_MAX, "{time:?} of load is more than {TIME_MAX:?}");
        let interval = Duration::from_secs_f64(per_second.recip());
        let count = u32::try_from(time.as_nanos() / interval.as_nanos())
            .ok()
            .filter(|count| *count <= REQUESTS_MAX);
        let count = count.with_context(|| {
            format!("{per_second} requests per second for {time:?} are more than {REQUESTS_MAX}")
        })?;
        Ok(Self { interval, count: count.max(1) })
    }

    /// Number of departures.
    pub(super) fn count(self) -> u32 {
        self.count
    }

    /// When number `number` leaves, counted from the start.
    pub(super) fn intended(self, number: u32) -> Duration {
        self.interval * number
    }

    /// How many should have left at this time after the start.
    pub(super) fn due(self, elapsed: Duration) -> u32 {
        let passed =
            u32::try_from(elapsed.as_nanos() / self.interval.as_nanos()).unwrap_or(u32::MAX);
        passed.saturating_add(1).min(self.count)
    }

    /// The exact rate of the rounded interval.
    pub(super) fn per_second(self) -> f64 {
        self.interval.as_secs_f64().recip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn departures_are_evenly_spaced_and_the_first_is_at_once() {
        let schedule = Schedule::new(200.0, Duration::from_secs(3)).unwrap();
        assert_eq!(schedule.count(), 600);
        let intended = [0, 1, 599].map(|number| schedule.intended(number));
        assert_eq!(intended, [0, 5, 2_995].map(Duration::from_millis));
    }

    #[test]
    fn due_requests_are_those_that_should_have_left() {
        let schedule = Schedule::new(1_000.0, Duration::from_secs(2)).unwrap();
        let due = [0, 999, 1_000, 1_500, 60_000_000]
            .map(|micros| schedule.due(Duration::from_micros(micros)));
        assert_eq!(due, [1, 1, 2, 2, 2_000]);
        for number in 0..schedule.count() {
            assert_eq!(schedule.due(schedule.intended(number)), number + 1);
        }
    }

    #[test]
    fn a_rate_that_is_no_round_number_keeps_its_count() {
        let schedule = Schedule::new(333.3, Duration::from_secs(30)).unwrap();
        assert_eq!(schedule.count(), 9_999);
        assert!((schedule.per_second() - 333.3).abs() < 0.001);
    }

    #[test]
    fn a_slow_rate_still_sends_one() {
        assert_eq!(Schedule::new(0.5, Duration::from_secs(1)).unwrap().count(), 1);
    }

    #[test]
    fn values_out_of_bounds_are_rejected() {
        for (per_second, seconds) in [
            (0.0, 1),
            (-5.0, 1),
            (f64::NAN, 1),
            (f64::INFINITY, 1),
            (1e9, 1),
            (10.0, 86_400),
            (50_000.0, 599),
        ] {
            assert!(
                Schedule::new(per_second, Duration::from_secs(seconds)).is_err(),
                "{per_second}/s for {seconds} s"
            );
        }
    }
}
