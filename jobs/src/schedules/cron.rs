//! Cron expressions, evaluated in UTC.

use std::{fmt, iter, str::FromStr};

use chrono::Utc;
use mongodb::bson::DateTime;

/// A cron expression of five fields (`minute hour day month weekday`), or six with seconds first.
/// Evaluated in UTC, where no hour is skipped or repeated.
#[derive(Debug, Clone)]
pub struct Cron {
    text: String,
    pattern: croner::Cron,
}

/// The text is not a cron expression, or never matches.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a cron expression, or never matches any time")]
pub struct InvalidCron {
    text: String,
    #[source]
    reason: croner::errors::CronError,
}

impl FromStr for Cron {
    type Err = InvalidCron;

    fn from_str(text: &str) -> Result<Self, InvalidCron> {
        let invalid = |reason| InvalidCron { text: text.to_owned(), reason };
        let pattern: croner::Cron = text.parse().map_err(invalid)?;
        pattern
            .find_next_occurrence(&chrono::DateTime::<Utc>::UNIX_EPOCH, true)
            .map_err(invalid)?;
        Ok(Self { text: text.to_owned(), pattern })
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cron {
    /// The first tick after `at`; none if there are no more.
    pub fn next_after(&self, at: DateTime) -> Option<DateTime> {
        let next = self.pattern.find_next_occurrence(&whole_seconds(at)?, false).ok()?;
        Some(DateTime::from_millis(next.timestamp_millis()))
    }

    /// The ticks after `after`, up to and including `until`, newest first.
    pub(super) fn ticks_back(
        &self,
        until: DateTime,
        after: DateTime,
    ) -> impl Iterator<Item = DateTime> {
        let newest = whole_seconds(until)
            .and_then(|until| self.pattern.find_previous_occurrence(&until, true).ok());
        iter::successors(newest, |tick| self.pattern.find_previous_occurrence(tick, false).ok())
            .map(|tick| DateTime::from_millis(tick.timestamp_millis()))
            .take_while(move |tick| *tick > after)
    }
}

/// `at` without fractions of a second: ticks are whole seconds.
fn whole_seconds(at: DateTime) -> Option<chrono::DateTime<Utc>> {
    chrono::DateTime::from_timestamp(at.timestamp_millis().div_euclid(1000), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime {
        DateTime::parse_rfc3339_str(text).unwrap()
    }

    fn next(cron: &str, after: &str) -> String {
        cron.parse::<Cron>()
            .unwrap()
            .next_after(at(after))
            .unwrap()
            .try_to_rfc3339_string()
            .unwrap()
    }

    #[test]
    fn the_next_tick_is_strictly_later() {
        assert_eq!(next("* * * * *", "2026-03-01T12:00:00Z"), "2026-03-01T12:01:00Z");
        assert_eq!(next("* * * * *", "2026-03-01T11:59:59.999Z"), "2026-03-01T12:00:00Z");
        assert_eq!(next("* * * * * *", "2026-03-01T12:00:00.001Z"), "2026-03-01T12:00:01Z");
        assert_eq!(next("30 4 * * MON", "2026-03-01T12:00:00Z"), "2026-03-02T04:30:00Z");
        assert_eq!(next("0 0 29 2 *", "2026-03-01T12:00:00Z"), "2028-02-29T00:00:00Z");
        assert_eq!(next("@daily", "2026-12-31T12:00:00Z"), "2027-01-01T00:00:00Z");
    }

    #[test]
    fn ticks_back_exclude_the_start_and_include_the_end() {
        let hourly: Cron = "0 * * * *".parse().unwrap();
        let ticks: Vec<_> =
            hourly.ticks_back(at("2026-03-01T03:00:00.5Z"), at("2026-03-01T00:00:00Z")).collect();
        assert_eq!(
            ticks,
            [at("2026-03-01T03:00:00Z"), at("2026-03-01T02:00:00Z"), at("2026-03-01T01:00:00Z")]
        );
        assert_eq!(
            hourly.ticks_back(at("2026-03-01T03:59:59Z"), at("2026-03-01T03:00:00Z")).count(),
            0
        );
        assert_eq!(
            hourly.ticks_back(at("2026-03-01T03:00:00Z"), at("2026-03-01T05:00:00Z")).count(),
            0
        );
    }

    #[test]
    fn invalid_or_impossible_expressions_are_rejected() {
        for text in
            ["", "* * *", "61 * * * *", "* 24 * * *", "0 0 30 2 *", "every day", "* * * * * * * *"]
        {
            let refused = text.parse::<Cron>().unwrap_err().to_string();
            assert!(refused.contains(&format!("`{text}`")), "{refused}");
        }
    }

    #[test]
    fn an_expression_limited_to_past_years_has_no_next_tick() {
        let past: Cron = "0 0 0 1 1 * 2020".parse().unwrap();
        assert_eq!(past.next_after(at("2026-03-01T12:00:00Z")), None);
    }
}
