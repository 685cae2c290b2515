//! The measured values, by round, and their medians.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    figures::{Target, at_most, median},
    machine::{Circumstances, now},
};

/// A measured value of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Figure {
    BareP50,
    BareP95,
    KeyedP50,
    KeyedP95,
    KeyedOfBareP50,
    KeyedOfBareP95,
    SameP50,
    SameP95,
    ReplayP50,
    ReplayP95,
    UncountedP95,
    CountedP95,
    PingP95,
    CountingOfPing,
    KeyOfSessionP50,
    KeyOfSessionP95,
    OtherAloneP95,
    OtherFloodedP95,
    OtherFloodedOfAlone,
}

impl Figure {
    /// Its name and unit.
    pub(super) const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::BareP50 => ("POST without an idempotency key, p50", "ms"),
            Self::BareP95 => ("POST without an idempotency key, p95", "ms"),
            Self::KeyedP50 => ("POST with a new key, p50", "ms"),
            Self::KeyedP95 => ("POST with a new key, p95", "ms"),
            Self::KeyedOfBareP50 => ("with a new key ÷ without, p50", "ratio"),
            Self::KeyedOfBareP95 => ("with a new key ÷ without, p95", "ratio"),
            Self::SameP50 => ("without a key ÷ itself, p50, the control", "ratio"),
            Self::SameP95 => ("without a key ÷ itself, p95, the control", "ratio"),
            Self::ReplayP50 => ("POST that is replayed, p50", "ms"),
            Self::ReplayP95 => ("POST that is replayed, p95", "ms"),
            Self::UncountedP95 => ("GET without rate limits, p95", "ms"),
            Self::CountedP95 => ("GET with rate limits, p95", "ms"),
            Self::PingP95 => ("`PING` of Redis, p95", "ms"),
            Self::CountingOfPing => ("what rate limits add to the p95 ÷ p95 of a `PING`", "ratio"),
            Self::KeyOfSessionP50 => ("GET with an API key ÷ with a session, p50", "ratio"),
            Self::KeyOfSessionP95 => ("GET with an API key ÷ with a session, p95", "ratio"),
            Self::OtherAloneP95 => ("GET of another tenant, p95", "ms"),
            Self::OtherFloodedP95 => ("GET of another tenant during the flood of a key, p95", "ms"),
            Self::OtherFloodedOfAlone => {
                ("another tenant during the flood ÷ without it, p95", "ratio")
            }
        }
    }
}

/// All results of a run so far.
pub(super) struct Results {
    pub(super) circumstances: Circumstances,
    /// When the run began (RFC 3339, UTC).
    pub(super) measured_at: String,
    samples: BTreeMap<Figure, Vec<f64>>,
}

impl Results {
    pub(super) fn new(circumstances: Circumstances) -> Self {
        Self { circumstances, measured_at: now(), samples: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, figure: Figure, value: f64) {
        self.samples.entry(figure).or_default().push(value);
    }

    /// Whether there are any results.
    pub(super) fn any(&self) -> bool {
        !self.samples.is_empty()
    }

    /// All values by round, in the order of the report.
    pub(super) fn figures(&self) -> impl Iterator<Item = (Figure, &[f64])> {
        self.samples.iter().map(|(figure, samples)| (*figure, samples.as_slice()))
    }

    fn median(&self, figure: Figure) -> Option<f64> {
        median(self.samples.get(&figure)?)
    }

    /// The targets for which this run has values.
    pub(super) fn targets(&self) -> Vec<Target> {
        let targets = [
            at_most(
                "a POST with a new key takes ≤ 1.3 × as long as without, p50",
                self.median(Figure::KeyedOfBareP50),
                1.3,
            ),
            at_most(
                "a POST with a new key takes ≤ 1.3 × as long as without, p95",
                self.median(Figure::KeyedOfBareP95),
                1.3,
            ),
            at_most(
                "rate limits add ≤ 1.5 × the p95 of a `PING` to the p95",
                self.median(Figure::CountingOfPing),
                1.5,
            ),
            at_most(
                "a request with an API key takes ≤ 1.1 × as long as with a session, p50",
                self.median(Figure::KeyOfSessionP50),
                1.1,
            ),
            at_most(
                "a request with an API key takes ≤ 1.1 × as long as with a session, p95",
                self.median(Figure::KeyOfSessionP95),
                1.1,
            ),
            at_most(
                "the p95 of another tenant is ≤ 2 × as long during the flood of a key",
                self.median(Figure::OtherFloodedOfAlone),
                2.0,
            ),
        ];
        targets.into_iter().flatten().collect()
    }

    /// All results, for programs.
    pub(super) fn json(&self) -> Value {
        let figure = |(figure, samples): (Figure, &[f64])| {
            let (name, unit) = figure.told();
            json!({ "name": name, "unit": unit, "rounds": samples.len(), "median": median(samples), "samples": samples })
        };
        let mut json = self.circumstances.json(&self.measured_at);
        json["figures"] = self.figures().map(figure).collect();
        json["targets"] = json!(self.targets());
        json
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A small run of two rounds.
    pub(in crate::access) fn sample() -> Results {
        let word = || "x".to_owned();
        let circumstances = Circumstances {
            command: "cargo xtask bench access".to_owned(),
            cores: 2,
            cpu: word(),
            kernel: word(),
            load_average: word(),
            commit: word(),
            rustc: word(),
            mongodb: word(),
            redis: word(),
        };
        let mut results = Results {
            measured_at: "2026-01-02T03:04:05Z".to_owned(),
            ..Results::new(circumstances)
        };
        for (p50, p95) in [(1.2, 1.3), (1.1, 1.5)] {
            results.add(Figure::KeyedOfBareP50, p50);
            results.add(Figure::KeyedOfBareP95, p95);
        }
        results
    }

    #[test]
    fn only_targets_that_were_measured_are_judged() {
        let met: Vec<bool> = sample().targets().iter().map(|target| target.met).collect();
        assert_eq!(met, [true, false]);
        let json = sample().json();
        assert_eq!(json["figures"][0]["samples"], json!([1.2, 1.1]));
        assert_eq!(json["targets"][1]["met"], false);
    }
}
