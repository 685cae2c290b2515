//! What is counted while a load runs, and the resulting report.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::call::Outcome;

/// Latencies are stored in microseconds with three significant digits, up to this value.
const MICROS_MAX: u64 = 60_000_000;

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the unit stands in the name")]
pub(crate) struct Latency {
    /// Median.
    pub(crate) p50_ms: f64,
    /// 95th percentile.
    pub(crate) p95_ms: f64,
    /// 99th percentile.
    pub(crate) p99_ms: f64,
    /// Maximum.
    pub(crate) max_ms: f64,
}

/// The results of a run.
#[derive(Debug)]
pub(crate) struct Report {
    /// Requests per second that should have left; none in a closed loop.
    pub(crate) offered_per_second: Option<f64>,
    /// Expected responses per second.
    pub(crate) achieved_per_second: f64,
    /// Of expected responses, and of requests without a response when they were abandoned.
    /// Rejections are quick and would distort the values; they count as errors.
    pub(crate) latency: Latency,
    /// How late the requests left, p99: because the generator was busy or no connection was free.
    pub(crate) departure_p99_ms: f64,
    /// Everything except expected responses, by status or kind of failure.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// The counts of one worker, and their sum.
#[derive(Debug)]
pub(super) struct Tally {
    latencies: Histogram<u64>,
    departures: Histogram<u64>,
    answered: u64,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new() -> anyhow::Result<Self> {
        let histogram = Histogram::new_with_bounds(1, MICROS_MAX, 3)?;
        Ok(Self {
            latencies: histogram.clone(),
            departures: histogram,
            answered: 0,
            errors: BTreeMap::new(),
        })
    }

    /// Counts a request that left `late`, and was answered `latency` after it should have left.
    pub(super) fn note(&mut self, outcome: Outcome, latency: Duration, late: Duration) {
        self.departures.saturating_record(micros(late));
        match outcome {
            Outcome::Answered => self.answered += 1,
            Outcome::Refused(status) => self.count(status.as_str()),
            Outcome::Dismissed(status) => {
                self.count(&format!("{} without Retry-After", status.as_str()));
            }
            Outcome::TimedOut => self.count("timeout"),
            Outcome::Broken => self.count("connection"),
        }
        if !matches!(outcome, Outcome::Refused(_) | Outcome::Dismissed(_)) {
            self.latencies.saturating_record(micros(latency));
        }
    }

    /// Counts a request that could not be sent in time.
    pub(super) fn unsent(&mut self) {
        self.count("unsent");
        self.latencies.saturating_record(MICROS_MAX);
    }

    fn count(&mut self, error: &str) {
        *self.errors.entry(error.to_owned()).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.latencies.add(&other.latencies)?;
        self.departures.add(&other.departures)?;
        self.answered += other.answered;
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "no run has 2^53 requests")]
    pub(super) fn report(self, offered_per_second: Option<f64>, time: Duration) -> Report {
        let at = |quantile| millis(self.latencies.value_at_quantile(quantile));
        Report {
            offered_per_second,
            achieved_per_second: self.answered as f64 / time.as_secs_f64(),
            latency: Latency {
                p50_ms: at(0.50),
                p95_ms: at(0.95),
                p99_ms: at(0.99),
                max_ms: millis(self.latencies.max()),
            },
            departure_p99_ms: millis(self.departures.value_at_quantile(0.99)),
            errors: self.errors,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "bounded by MICROS_MAX")]
fn millis(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    fn about(value: f64, expected: f64) -> bool {
        (value - expected).abs() <= expected * 0.001
    }

    #[test]
    fn percentiles_are_those_of_all_workers_together() {
        let (mut even, mut odd) = (Tally::new().unwrap(), Tally::new().unwrap());
        for number in 1..=1_000 {
            let tally = if number % 2 == 0 { &mut even } else { &mut odd };
            tally.note(Outcome::Answered, Duration::from_millis(number), Duration::ZERO);
        }
        even.add(&odd).unwrap();
        let report = even.report(Some(100.0), Duration::from_secs(10));
        assert!(about(report.achieved_per_second, 100.0));
        let Latency { p50_ms, p95_ms, p99_ms, max_ms } = report.latency;
        let told = [p50_ms, p95_ms, p99_ms, max_ms];
        assert!(
            told.iter()
                .zip([500.0, 950.0, 990.0, 1_000.0])
                .all(|(told, expected)| about(*told, expected)),
            "{told:?}"
        );
    }

    #[test]
    fn rejections_count_neither_in_latencies_nor_as_achieved() {
        let mut tally = Tally::new().unwrap();
        tally.note(Outcome::Answered, Duration::from_millis(100), Duration::ZERO);
        for _ in 0..9 {
            tally.note(
                Outcome::Refused(StatusCode::SERVICE_UNAVAILABLE),
                Duration::from_millis(1),
                Duration::ZERO,
            );
        }
        let report = tally.report(None, Duration::from_secs(1));
        assert!(about(report.achieved_per_second, 1.0) && about(report.latency.p50_ms, 100.0));
        assert_eq!(report.errors, BTreeMap::from([("503".to_owned(), 9)]));
    }

    #[test]
    fn a_request_without_a_response_counts_as_slow() {
        let mut tally = Tally::new().unwrap();
        tally.note(Outcome::TimedOut, Duration::from_secs(10), Duration::ZERO);
        tally.unsent();
        let report = tally.report(None, Duration::from_secs(1));
        assert!(about(report.latency.p50_ms, 10_000.0) && about(report.latency.max_ms, 60_000.0));
        assert_eq!(report.errors.keys().collect::<Vec<_>>(), ["timeout", "unsent"]);
    }
}
