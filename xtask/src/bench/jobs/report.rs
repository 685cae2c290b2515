//! The report of a run: a page of Markdown for people, numbers for programs, and a plot.

use std::{fmt::Write, path::Path};

use super::{
    peers::Contestant,
    results::{Results, Row},
    svg,
};

/// What stands below the numbers, whatever they are.
const HOW_TO_READ: &str = include_str!("how_to_read.md");

/// Writes `README.md`, `jobs.json` and `jobs.svg` into `folder`.
pub(super) fn write(results: &Results, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("README.md"), format!("{}\n{HOW_TO_READ}", markdown(results)))?;
    std::fs::write(folder.join("jobs.json"), format!("{:#}\n", results.json()))?;
    std::fs::write(folder.join("jobs.svg"), svg::plot(results))?;
    Ok(())
}

/// Where, what, the numbers and whether the targets were met.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = String::from("# The job engine against its peers\n\n");
    text.push_str(&circumstances(results));
    text.push_str("\n![The figures below as bars](jobs.svg)\n\n");
    text.push_str(&table(results));
    text.push_str(&targets(results));
    text
}

fn circumstances(results: &Results) -> String {
    let mut text = format!("- measured: {}\n{}", results.measured_at, results.circumstances);
    for (who, versions) in &results.versions {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "- {who}: {versions}");
    }
    for (who, reason) in &results.skipped {
        let _ = writeln!(text, "- **{who} is skipped**: {}", reason.replace('\n', " "));
    }
    for (measure, who, reason) in results.left_out() {
        let _ = writeln!(text, "- {who} is not measured in `{measure}`: {reason}");
    }
    text
}

/// Medians, each peer's with how many times better ours is.
fn table(results: &Results) -> String {
    let present: Vec<Contestant> = Contestant::ALL.into_iter().filter(|who| results.versions.contains_key(who)).collect();
    let names: Vec<&str> = present.iter().map(|who| who.title()).collect();
    let rules = " --: |".repeat(present.len());
    let mut text = format!("| figure | unit | rounds | {} |\n| --- | --- | --: |{rules}\n", names.join(" | "));
    for row in results.rows() {
        let _ = write!(text, "| {} | {} | {} |", row.figure.name, row.figure.unit.name(), row.rounds());
        for who in &present {
            let _ = write!(text, " {} |", cell(&row, *who));
        }
        text.push('\n');
    }
    text
}

fn cell(row: &Row, who: Contestant) -> String {
    let (Some(median), Some((low, high))) = (row.median(who), row.spread(who)) else { return "–".to_owned() };
    let spread = format!("{}–{}", number(low), number(high));
    match row.advantage(who).filter(|_| who != Contestant::Ours) {
        Some(advantage) => format!("{} ({spread}), **{} ×**", number(median), number(advantage)),
        None => format!("**{}** ({spread})", number(median)),
    }
}

fn targets(results: &Results) -> String {
    let targets = results.targets();
    if targets.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n| target | measured | met |\n| --- | --: | --- |\n");
    for target in targets {
        let _ = writeln!(text, "| {} | {} | {} |", target.wanted, target.measured, if target.met { "yes" } else { "**no**" });
    }
    text
}

/// A number to about three digits, thousands apart.
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
    use super::{super::results::tests::sample, *};

    #[test]
    fn the_page_names_the_machine_the_missing_and_the_misses() {
        let page = markdown(&sample());
        for expected in [
            "- measured: 2026-01-02T03:04:05Z",
            "A <fast> processor",
            "- BullMQ: BullMQ 6",
            "- **Sidekiq is skipped**: there is no Ruby here",
            "- BullMQ is not measured in `backlog1m`: it takes minutes",
            "| start latency when idle, p99 ≤ 5 ms | 6.00 | **no** |",
        ] {
            assert!(page.contains(expected), "{expected} is missing in\n{page}");
        }
    }

    #[test]
    fn every_line_of_the_table_has_the_same_cells() {
        let table = table(&sample());
        let cells: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
        // The head, the rule, one drain and both halves of a latency.
        assert_eq!(cells, [6; 5], "{table}");
        assert!(table.contains("7\u{202f}500 (7\u{202f}000–9\u{202f}000), **8.13 ×**"), "{table}");
        assert!(table.contains("| 1 | **0.40** (0.40–0.40) | – |"), "{table}");
    }

    #[test]
    fn everything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("new");
        write(&sample(), &out).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("jobs.json")).unwrap()).unwrap();
        assert_eq!(json["measured_at"], "2026-01-02T03:04:05Z");
        assert!(std::fs::read_to_string(out.join("README.md")).unwrap().ends_with(HOW_TO_READ));
        assert!(out.join("jobs.svg").exists());
    }

    #[test]
    fn numbers_are_short_and_grouped() {
        assert_eq!(
            [0.4, 42.25, 421.9, 1_234_567.0, -1_000.0].map(number),
            ["0.40", "42.2", "422", "1\u{202f}234\u{202f}567", "-1\u{202f}000"]
        );
    }
}
