//! Shared by all reports: medians, formatted numbers, and whether targets were met.

use std::fmt::Write;

use serde::Serialize;

/// A target, and whether it was met.
#[derive(Debug, Serialize)]
pub(super) struct Target {
    pub(super) wanted: String,
    pub(super) measured: String,
    pub(super) met: bool,
}

/// A minimum for a value that may not have been measured.
pub(super) fn at_least(wanted: &str, measured: Option<f64>, bound: f64) -> Option<Target> {
    target(wanted, measured, |measured| measured >= bound)
}

/// A maximum for a value that may not have been measured.
pub(super) fn at_most(wanted: &str, measured: Option<f64>, bound: f64) -> Option<Target> {
    target(wanted, measured, |measured| measured <= bound)
}

fn target(wanted: &str, measured: Option<f64>, met: impl Fn(f64) -> bool) -> Option<Target> {
    let measured = measured?;
    Some(Target { wanted: wanted.to_owned(), measured: number(measured), met: met(measured) })
}

/// The targets as a Markdown table, if there are any.
pub(super) fn targets(targets: &[Target]) -> String {
    if targets.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n| target | measured | met |\n| --- | --: | --- |\n");
    for target in targets {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            target.wanted,
            target.measured,
            if target.met { "yes" } else { "**no**" }
        );
    }
    text
}

/// The median: the middle value, or the mean of the two middle ones.
pub(super) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) =
        (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// A number with about three significant digits and separated thousands.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => thousands(&format!("{value:.0}")),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(digits: &str) -> String {
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && !text.ends_with('-') {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_the_mean_of_the_middle_two() {
        assert_eq!([&[1.0, 2.0][..], &[3.0], &[]].map(median), [Some(1.5), Some(3.0), None]);
    }

    #[test]
    fn a_target_is_met_at_its_bound() {
        let met = |target: Option<Target>| target.map(|target| target.met);
        assert_eq!(
            [at_least("", Some(0.9), 0.9), at_least("", Some(0.89), 0.9), at_least("", None, 0.9)]
                .map(met),
            [Some(true), Some(false), None]
        );
        assert_eq!(
            [at_most("", Some(1.0), 1.0), at_most("", Some(1.1), 1.0)].map(met),
            [Some(true), Some(false)]
        );
    }

    #[test]
    fn numbers_are_short_and_grouped() {
        assert_eq!(
            [0.4, 42.25, 421.9, 1_234_567.0, -1_000.0].map(number),
            ["0.40", "42.2", "422", "1\u{202f}234\u{202f}567", "-1\u{202f}000"]
        );
    }
}
