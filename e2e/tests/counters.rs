//! The counters that alerts use exist before anything happened: Prometheus sees no increase in a
//! series that appears with its first events, so the first burst would raise no alert.

use std::{collections::BTreeSet, path::Path};

use crate::support::prepared;

/// A selector in a rule, such as `tenantry_mail_sent_total{outcome="refused"}`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Selector<'a> {
    name: &'a str,
    /// Label, operator and value.
    matchers: Vec<(&'a str, &'a str, &'a str)>,
}

/// The selectors of counters in the text of a rule file.
fn selectors(rules: &str) -> BTreeSet<Selector<'_>> {
    let starts = rules.match_indices("tenantry_").map(|(at, _)| at);
    // Recorded series contain the name of a counter after a colon.
    let starts = starts.filter(|at| !rules[..*at].ends_with(':'));
    starts.filter_map(|at| selector(&rules[at..])).collect()
}

fn selector(text: &str) -> Option<Selector<'_>> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (name, rest) = text.split_at(end);
    if !name.ends_with("_total") {
        return None;
    }
    let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
    let matchers = inside.map_or("", |(matchers, _)| matchers).split(',').filter_map(|matcher| {
        let (left, value) = matcher.split_once('"')?;
        let label = left.trim_end_matches(['=', '~', '!']).trim();
        Some((label, left.trim_start().strip_prefix(label)?.trim(), value.strip_suffix('"')?))
    });
    // Prometheus adds the label `job`.
    let matchers = matchers.filter(|(label, ..)| *label != "job").collect();
    Some(Selector { name, matchers })
}

/// Whether a value matches a regular expression of alternatives and dots.
fn matches(pattern: &str, value: &str) -> bool {
    pattern.split('|').any(|pattern| {
        pattern.len() == value.len()
            && pattern
                .bytes()
                .zip(value.bytes())
                .all(|(wanted, found)| wanted == b'.' || wanted == found)
    })
}

/// Whether the exposition contains a series for the selector.
fn has_series(exposition: &str, selector: &Selector<'_>) -> bool {
    exposition.lines().filter_map(|line| line.strip_prefix(selector.name)).any(|series| {
        series.starts_with(['{', ' '])
            && selector.matchers.iter().all(|(label, operator, value)| {
                let label = format!("{label}=\"");
                let found = series.split_once(&label).and_then(|(_, rest)| rest.split_once('"'));
                let found = found.map_or("", |(found, _)| found);
                match *operator {
                    "=" => found == *value,
                    "!=" => found != *value,
                    "=~" => matches(value, found),
                    _ => !matches(value, found),
                }
            })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_counter_of_a_rule_starts_at_zero() {
    let env = prepared().await;
    let (api, worker) = (env.spawn_api().await, env.spawn_worker().await);
    let mut exposition = String::new();
    for process in [api.internal_url(), worker.internal_url()] {
        let answer = reqwest::get(format!("{process}/metrics")).await.unwrap();
        exposition += &answer.text().await.unwrap();
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards/prometheus/rules");
    let rules = ["recording.yml", "alerts.yml"]
        .map(|file| std::fs::read_to_string(folder.join(file)).unwrap())
        .concat();
    let selectors = selectors(&rules);
    assert!(selectors.len() > 15, "{selectors:?}");
    let missing: Vec<_> =
        selectors.iter().filter(|selector| !has_series(&exposition, selector)).collect();
    assert!(missing.is_empty(), "no series at the start for {missing:#?}");
}

#[test]
fn selectors_are_found_in_rules() {
    let rules = "sum(increase(tenantry_a_total{job=\"api\", status=~\"5..|429\", act!=\"x\"}[5m])) > queue:tenantry_b_total:max + tenantry_c_total ";
    let found: Vec<_> = selectors(rules).into_iter().collect();
    let a = Selector {
        name: "tenantry_a_total",
        matchers: vec![("status", "=~", "5..|429"), ("act", "!=", "x")],
    };
    assert!(has_series("tenantry_a_total{act=\"y\",status=\"503\"} 0", &a));
    assert!(!has_series("tenantry_a_total{act=\"x\",status=\"503\"} 0", &a));
    assert!(!has_series("tenantry_a_total{act=\"y\",status=\"404\"} 0", &a));
    assert_eq!(found, [a, Selector { name: "tenantry_c_total", matchers: Vec::new() }]);
}
