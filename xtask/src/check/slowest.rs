//! The slowest tests, from the report of nextest (`.config/nextest.toml`).

use std::{cmp::Reverse, time::Duration};

use anyhow::Context;
use programs::{progress::seconds, workspace_root};

const REPORT: &str = "target/nextest/default/junit.xml";
const SHOWN: usize = 10;

/// The slowest tests of the latest run, one per line.
pub(super) fn shown() -> anyhow::Result<String> {
    let report = workspace_root().join(REPORT);
    let report = std::fs::read_to_string(&report)
        .with_context(|| format!("reading nextest's report {}", report.display()))?;
    let mut tests = tests(&report);
    tests.sort_by_key(|(_, time)| Reverse(*time));
    let lines = tests.iter().take(SHOWN);
    let lines = lines.map(|(name, time)| format!("  {:>10}  {name}", seconds(*time)));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Each test with its time.
fn tests(report: &str) -> Vec<(String, Duration)> {
    report.split("<testcase ").skip(1).filter_map(test).collect()
}

fn test(element: &str) -> Option<(String, Duration)> {
    let (attributes, _) = element.split_once('>')?;
    let attribute = |name: &str| {
        let (_, value) = attributes.split_once(&format!("{name}=\""))?;
        value.split_once('"').map(|(value, _)| value)
    };
    let time = attribute(" time")?.parse().ok()?;
    let name = format!("{} {}", attribute("classname")?, attribute("name")?);
    Some((name, Duration::try_from_secs_f64(time).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_lists_each_test_with_its_time() {
        let report = r#"<?xml version="1.0"?><testsuites time="9.0"><testsuite name="api">
            <testcase name="one" classname="api" timestamp="2025-01-01T00:00:00Z" time="0.25">
            </testcase><testcase name="mod::other" classname="api::http" timestamp="" time="12.5">
            <failure type="panic">time="99" &gt;</failure></testcase></testsuite></testsuites>"#;
        let expected = [("api one", 250), ("api::http mod::other", 12_500)]
            .map(|(name, millis)| (name.to_owned(), Duration::from_millis(millis)));
        assert_eq!(tests(report), expected);
    }
}
