//! The report of a run: a page of Markdown for people, and numbers for programs.

use std::{fmt::Write, path::Path};

use super::results::{Figure, Results};
use crate::figures::{self, median, number};

/// Fixed text below the numbers.
const HOW_TO_READ: &str = include_str!("how_to_read.md");

/// Writes `access.md` and `access.json` into `folder`.
pub(super) fn write(results: &Results, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("access.md"), format!("{}\n{HOW_TO_READ}", markdown(results)))?;
    std::fs::write(folder.join("access.json"), format!("{:#}\n", results.json()))?;
    Ok(())
}

/// Circumstances, numbers, and whether the targets were met.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = format!(
        "# Cost of access for programs\n\n- measured: {}\n{}\n",
        results.measured_at, results.circumstances
    );
    text.push_str(
        "| figure | unit | rounds | median | minimum to maximum |\n| --- | --- | --: | --: | --: |\n",
    );
    results.figures().for_each(|row| text.push_str(&line(row)));
    text.push_str(&figures::targets(&results.targets()));
    text
}

fn line((figure, samples): (Figure, &[f64])) -> String {
    let (name, unit) = figure.told();
    let (low, high) =
        samples.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), sample| {
            (low.min(*sample), high.max(*sample))
        });
    let median = median(samples).map_or_else(String::new, number);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "| {name} | {unit} | {} | **{median}** | {} to {} |",
        samples.len(),
        number(low),
        number(high)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::{super::results::tests::sample, *};

    #[test]
    fn the_page_contains_medians_spreads_and_missed_targets() {
        let page = markdown(&sample());
        for expected in [
            "- measured: 2026-01-02T03:04:05Z",
            "| with a new key ÷ without, p50 | ratio | 2 | **1.15** | 1.10 to 1.20 |",
            "| a POST with a new key takes ≤ 1.3 × as long as without, p95 | 1.40 | **no** |",
        ] {
            assert!(page.contains(expected), "{expected} is missing in\n{page}");
        }
    }

    #[test]
    fn everything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        write(&sample(), folder.path()).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.path().join("access.json")).unwrap())
                .unwrap();
        assert_eq!(json["measured_at"], "2026-01-02T03:04:05Z");
        assert!(
            std::fs::read_to_string(folder.path().join("access.md"))
                .unwrap()
                .ends_with(HOW_TO_READ)
        );
    }
}
