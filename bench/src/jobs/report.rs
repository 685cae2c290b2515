//! The report of a run: a page of Markdown for people, numbers for programs, and a plot.

use std::{fmt::Write, path::Path};

use super::{
    peers::Contestant,
    results::{Results, Row},
    svg,
};
use crate::figures::{self, number};

/// Fixed text below the numbers.
const HOW_TO_READ: &str = include_str!("how_to_read.md");

/// Writes `README.md`, `jobs.json` and `jobs.svg` into `folder`.
pub(super) fn write(results: &Results, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("README.md"), format!("{}\n{HOW_TO_READ}", markdown(results)))?;
    std::fs::write(folder.join("jobs.json"), format!("{:#}\n", results.json()))?;
    std::fs::write(folder.join("jobs.svg"), svg::plot(results))?;
    Ok(())
}

/// Circumstances, contestants, numbers, and whether the targets were met.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = String::from("# The job engine and its peers\n\n");
    text.push_str(&circumstances(results));
    text.push_str("\n![The figures below as bars](jobs.svg)\n\n");
    text.push_str(&table(results));
    text.push_str(&figures::targets(&results.targets()));
    text
}

fn circumstances(results: &Results) -> String {
    let mut text = format!("- measured: {}\n{}", results.measured_at, results.circumstances);
    for (who, versions) in &results.versions {
        // Writing to a string cannot fail.
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

/// Medians. For each peer also the ratio to ours.
fn table(results: &Results) -> String {
    let present: Vec<Contestant> =
        Contestant::ALL.into_iter().filter(|who| results.versions.contains_key(who)).collect();
    let names: Vec<&str> = present.iter().map(|who| who.title()).collect();
    let rules = " --: |".repeat(present.len());
    let mut text =
        format!("| figure | unit | rounds | {} |\n| --- | --- | --: |{rules}\n", names.join(" | "));
    for row in results.rows() {
        let _ =
            write!(text, "| {} | {} | {} |", row.figure.name, row.figure.unit.name(), row.rounds());
        for who in &present {
            let _ = write!(text, " {} |", cell(&row, *who));
        }
        text.push('\n');
    }
    text
}

fn cell(row: &Row, who: Contestant) -> String {
    let (Some(median), Some((low, high))) = (row.median(who), row.spread(who)) else {
        return "–".to_owned();
    };
    let spread = format!("{}–{}", number(low), number(high));
    match row.advantage(who).filter(|_| who != Contestant::Ours) {
        Some(advantage) => format!("{} ({spread}), **{} ×**", number(median), number(advantage)),
        None => format!("**{}** ({spread})", number(median)),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::results::tests::sample, *};

    #[test]
    fn the_page_names_the_machine_skipped_peers_and_missed_targets() {
        let page = markdown(&sample());
        for expected in [
            "- measured: 2026-01-02T03:04:05Z",
            "A <fast> processor",
            "- BullMQ: BullMQ 6",
            "- **Sidekiq is skipped**: there is no Ruby here",
            "- BullMQ is not measured in `backlog1m`: it would take minutes",
            "| start latency when idle, p99 ≤ 5 ms | 6.00 | **no** |",
        ] {
            assert!(page.contains(expected), "{expected} is missing in\n{page}");
        }
    }

    #[test]
    fn every_line_of_the_table_has_the_same_cells() {
        let table = table(&sample());
        let cells: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
        // The header, its rule, one drain and both percentiles of a latency.
        assert_eq!(cells, [6; 5], "{table}");
        assert!(table.contains("7\u{202f}500 (7\u{202f}000–9\u{202f}000), **8.13 ×**"), "{table}");
        assert!(table.contains("| 1 | **0.40** (0.40–0.40) | – |"), "{table}");
    }

    #[test]
    fn everything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("new");
        write(&sample(), &out).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(out.join("jobs.json")).unwrap()).unwrap();
        assert_eq!(json["measured_at"], "2026-01-02T03:04:05Z");
        assert!(std::fs::read_to_string(out.join("README.md")).unwrap().ends_with(HOW_TO_READ));
        assert!(out.join("jobs.svg").exists());
    }
}
