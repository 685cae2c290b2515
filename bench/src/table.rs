//! Results as rows of one Markdown table.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use super::load::{Latency, Report};

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    /// What was measured.
    pub(super) measure: String,
    /// Under which load.
    pub(super) load: String,
    /// Requested rate per second, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offered_per_second: Option<f64>,
    /// Achieved rate per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) achieved_per_second: Option<f64>,
    /// Latencies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latency: Option<Latency>,
    /// Failures, by status or kind.
    pub(super) errors: BTreeMap<String, u64>,
    /// Remarks.
    pub(super) note: String,
}

impl Row {
    /// The row of a load, or of a capacity, which has no meaningful latencies.
    pub(super) fn of(measure: &str, load: String, report: Report) -> Self {
        let offered = report.offered_per_second;
        let note = offered.map_or_else(String::new, |_| {
            format!("requests left {} ms late (p99)", number(report.departure_p99_ms))
        });
        Self {
            measure: measure.to_owned(),
            load,
            offered_per_second: offered,
            achieved_per_second: Some(report.achieved_per_second),
            latency: offered.map(|_| report.latency),
            errors: report.errors,
            note,
        }
    }

    fn cells(&self) -> [String; 10] {
        let told = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
        let latency = |of: fn(&Latency) -> f64| told(self.latency.as_ref().map(of));
        let errors: Vec<String> =
            self.errors.iter().map(|(error, count)| format!("{count} × {error}")).collect();
        [
            self.measure.clone(),
            self.load.clone(),
            told(self.offered_per_second),
            told(self.achieved_per_second),
            latency(|latency| latency.p50_ms),
            latency(|latency| latency.p95_ms),
            latency(|latency| latency.p99_ms),
            latency(|latency| latency.max_ms),
            if errors.is_empty() { "0".to_owned() } else { errors.join(", ") },
            self.note.clone(),
        ]
    }
}

const HEAD: [&str; 10] = [
    "measure",
    "load",
    "offered/s",
    "achieved/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "max ms",
    "errors",
    "note",
];
/// The columns with numbers, which are right-aligned.
const NUMBERS: std::ops::Range<usize> = 2..8;

/// The table in Markdown, with columns that are also aligned in a terminal.
pub(super) fn markdown(rows: &[Row]) -> String {
    let cells: Vec<[String; 10]> = rows.iter().map(Row::cells).collect();
    let width = |column: usize| {
        let widest = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        widest.max(HEAD[column].chars().count())
    };
    let widths: [usize; 10] = std::array::from_fn(width);
    let mut table = String::new();
    line(&mut table, &HEAD.map(str::to_owned), &widths);
    for (column, width) in widths.iter().enumerate() {
        let rule = "-".repeat(width + 1);
        let rule =
            if NUMBERS.contains(&column) { format!("|{rule}:") } else { format!("|{rule}-") };
        table.push_str(&rule);
    }
    table.push_str("|\n");
    for row in &cells {
        line(&mut table, row, &widths);
    }
    table
}

fn line(table: &mut String, cells: &[String; 10], widths: &[usize; 10]) {
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        // Writing to a string cannot fail.
        let _ = if NUMBERS.contains(&column) {
            write!(table, "| {cell:>width$} ")
        } else {
            write!(table, "| {cell:<width$} ")
        };
    }
    table.push_str("|\n");
}

/// A number with three significant digits, which is more than one run can show.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            measure: "me".to_owned(),
            load: "ceiling".to_owned(),
            offered_per_second: None,
            achieved_per_second: Some(1_234.5),
            latency: None,
            errors: [("503".to_owned(), 2), ("timeout".to_owned(), 1)].into(),
            note: String::new(),
        }
    }

    #[test]
    fn every_line_has_the_same_columns() {
        let latency = Latency { p50_ms: 0.123, p95_ms: 12.34, p99_ms: 123.4, max_ms: 1234.0 };
        let wide = Row { latency: Some(latency), note: "π ≈ 3".to_owned(), ..row() };
        let table = markdown(&[row(), wide]);
        let widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths.len(), 4);
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
        assert!(table.contains("2 × 503, 1 × timeout") && table.contains("|   0.12 |"), "{table}");
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(
            [0.0042, 4.2, 42.25, 421.9, 42_190.4].map(number),
            ["0.00", "4.20", "42.2", "422", "42190"]
        );
    }
}
