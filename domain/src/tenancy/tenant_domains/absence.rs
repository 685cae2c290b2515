//! How long the record of a verified domain is missing: DNS zones and name servers have temporary
//! failures, so a domain has a grace period.

use std::time::Duration;

use common::clock::{between, millis_of};
use mongodb::bson::DateTime;

use super::{Found, TenantDomain};

/// A domain whose name servers do not answer is lost after this many times the grace period of a
/// missing record.
const NO_ANSWER_GRACES: u32 = 4;

/// How long a verified domain has been without its record, and without an answer of its name
/// servers. Each has its own grace period, and a record that is found ends both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Absence {
    pub(super) missing: Spell,
    pub(super) unanswered: Spell,
}

/// How long something has lasted, with interruptions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spell {
    /// When it began the last time; none while it is interrupted.
    pub(super) since: Option<DateTime>,
    /// How long it had lasted before, in milliseconds.
    pub(super) before_ms: i64,
}

impl Spell {
    /// Goes on if it `lasts`, and otherwise is interrupted.
    fn at(self, now: DateTime, lasts: bool) -> Self {
        if lasts {
            return Self { since: self.since.or(Some(now)), ..self };
        }
        let last_ms = self.since.map_or(0, |since| millis_of(between(since, now)));
        Self { since: None, before_ms: self.before_ms.saturating_add(last_ms) }
    }

    /// When it will have lasted for `grace`; none while it is interrupted and has not.
    fn ends(self, now: DateTime, grace: Duration) -> Option<DateTime> {
        let left = millis_of(grace).saturating_sub(self.before_ms);
        match self.since {
            Some(since) => {
                Some(DateTime::from_millis(since.timestamp_millis().saturating_add(left)))
            }
            None => (left <= 0).then_some(now),
        }
    }
}

impl Absence {
    pub(super) fn of(domain: &TenantDomain) -> Self {
        Self {
            missing: Spell { since: domain.missing_since, before_ms: domain.missing_ms },
            unanswered: Spell { since: domain.unanswered_since, before_ms: domain.unanswered_ms },
        }
    }

    /// After a check that `found` this.
    pub(super) fn after(self, found: Found, now: DateTime) -> Self {
        match found {
            Found::Record => Self::default(),
            Found::Nothing | Found::NoAnswer => Self {
                missing: self.missing.at(now, found == Found::Nothing),
                unanswered: self.unanswered.at(now, found == Found::NoAnswer),
            },
        }
    }

    /// When the domain is lost unless its record is found before.
    pub(super) fn ends(self, now: DateTime, grace: Duration) -> Option<DateTime> {
        let ends =
            [self.missing.ends(now, grace), self.unanswered.ends(now, grace * NO_ANSWER_GRACES)];
        ends.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    /// Day of the end after checks on these days, with a grace period of three days.
    fn ends(checks: &[(i64, Found)]) -> Option<i64> {
        let day = millis_of(DAY);
        let on = |number: i64| DateTime::from_millis(number * day);
        let absence = checks.iter().fold(Absence::default(), |absence, (number, found)| {
            absence.after(*found, on(*number))
        });
        let now = on(checks.last().map_or(0, |(number, _)| *number));
        absence.ends(now, DAY * 3).map(|end| end.timestamp_millis() / day)
    }

    #[test]
    fn a_missing_record_ends_the_grace_period_at_one_moment() {
        use Found::{NoAnswer, Nothing, Record};
        assert_eq!(ends(&[]), None);
        assert_eq!(ends(&[(1, Nothing)]), Some(4));
        assert_eq!(ends(&[(1, Nothing), (2, Nothing), (3, Nothing)]), Some(4));
        assert_eq!(ends(&[(1, Nothing), (3, Record)]), None);
        assert_eq!(ends(&[(1, Nothing), (3, Record), (4, Nothing)]), Some(7));
        assert_eq!(ends(&[(1, NoAnswer)]), Some(13));
    }

    #[test]
    fn days_without_an_answer_are_counted_apart_from_days_without_the_record() {
        use Found::{NoAnswer, Nothing};
        assert_eq!(ends(&[(1, NoAnswer), (9, Nothing)]), Some(12), "eight days do not count");
        assert_eq!(ends(&[(1, Nothing), (2, NoAnswer)]), Some(14));
        let mixed = [(1, Nothing), (3, NoAnswer), (10, Nothing)];
        assert_eq!(ends(&mixed), Some(11), "two days were without the record before");
        assert_eq!(ends(&[(1, Nothing), (4, NoAnswer)]), Some(4), "it has ended");
        let flapping = [(1, NoAnswer), (10, Nothing), (11, NoAnswer)];
        assert_eq!(ends(&flapping), Some(14), "nine days were without an answer before");
    }
}
