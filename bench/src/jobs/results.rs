//! The measured values, by round, and their medians.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use testkit::contest::Values;

use super::{
    measure::{Figure, Measure},
    peers::Contestant,
};
use crate::{
    figures::{Target, at_least, at_most, median},
    machine::{Circumstances, now},
};

/// All results of a run so far.
pub(super) struct Results {
    pub(super) circumstances: Circumstances,
    /// When the run began (RFC 3339, UTC).
    pub(super) measured_at: String,
    /// The versions of the contestants.
    pub(super) versions: BTreeMap<Contestant, String>,
    /// Contestants that were skipped or removed, with the reason.
    pub(super) skipped: BTreeMap<Contestant, String>,
    left: BTreeMap<Measure, BTreeMap<Contestant, &'static str>>,
    rounds: BTreeMap<Measure, BTreeMap<Contestant, Vec<Values>>>,
}

/// One value of each contestant that has it.
pub(super) struct Row {
    pub(super) figure: Figure,
    samples: BTreeMap<Contestant, Vec<f64>>,
}

impl Row {
    /// Number of rounds in which it was measured.
    pub(super) fn rounds(&self) -> usize {
        self.samples.values().map(Vec::len).max().unwrap_or_default()
    }

    pub(super) fn median(&self, who: Contestant) -> Option<f64> {
        median(self.samples.get(&who)?)
    }

    /// The minimum and the maximum over all rounds.
    pub(super) fn spread(&self, who: Contestant) -> Option<(f64, f64)> {
        let samples = self.samples.get(&who)?;
        let (low, high) = (
            samples.iter().copied().min_by(f64::total_cmp)?,
            samples.iter().copied().max_by(f64::total_cmp)?,
        );
        Some((low, high))
    }

    /// How many times better ours is than `who`; below 1 if it is worse.
    pub(super) fn advantage(&self, who: Contestant) -> Option<f64> {
        let (ours, other) = (self.median(Contestant::Ours)?, self.median(who)?);
        Some(if self.figure.unit.more_is_better() { ours / other } else { other / ours })
    }
}

impl Results {
    pub(super) fn new(circumstances: Circumstances) -> Self {
        let measured_at = now();
        let (versions, skipped) = (BTreeMap::new(), BTreeMap::new());
        Self {
            circumstances,
            measured_at,
            versions,
            skipped,
            left: BTreeMap::new(),
            rounds: BTreeMap::new(),
        }
    }

    pub(super) fn take_part(&mut self, who: Contestant, versions: String) {
        self.versions.insert(who, versions);
    }

    pub(super) fn skip(&mut self, who: Contestant, reason: String) {
        self.skipped.insert(who, reason);
    }

    /// Records that `who` does not take part in `measure`.
    pub(super) fn leave(&mut self, measure: Measure, who: Contestant, reason: &'static str) {
        self.left.entry(measure).or_default().insert(who, reason);
    }

    pub(super) fn add(&mut self, measure: Measure, who: Contestant, values: &Values) {
        self.rounds.entry(measure).or_default().entry(who).or_default().push(values.clone());
    }

    /// Whether there are any results.
    pub(super) fn any(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// All values, in the order of the report.
    pub(super) fn rows(&self) -> Vec<Row> {
        let of = |(measure, rounds): (&Measure, &BTreeMap<Contestant, Vec<Values>>)| {
            let row = |figure: Figure| {
                let samples = |rounds: &Vec<Values>| {
                    rounds.iter().filter_map(|values| values.get(figure.value)).copied().collect()
                };
                Row {
                    figure,
                    samples: rounds.iter().map(|(who, rounds)| (*who, samples(rounds))).collect(),
                }
            };
            measure.figures().into_iter().map(row).collect::<Vec<_>>()
        };
        self.rounds.iter().flat_map(of).collect()
    }

    /// Which contestants do not take part in which measurement; each reason once.
    pub(super) fn left_out(&self) -> Vec<(Measure, Contestant, &'static str)> {
        let each = self
            .left
            .iter()
            .flat_map(|(measure, left)| left.iter().map(|(who, reason)| (*measure, *who, *reason)));
        each.collect()
    }

    /// The median of the first value of a measurement.
    fn of(&self, measure: Measure, value: &str, who: Contestant) -> Option<f64> {
        let rounds = self.rounds.get(&measure)?.get(&who)?;
        median(&rounds.iter().filter_map(|values| values.get(value)).copied().collect::<Vec<_>>())
    }

    /// The targets for which this run has values.
    pub(super) fn targets(&self) -> Vec<Target> {
        use Contestant::{ApalisRedis, Bullmq, Ours, Raw};
        let rate = |measure, who| self.of(measure, testkit::contest::PER_SECOND, who);
        let drained = |who| {
            DRAINS.into_iter().filter_map(|measure| rate(measure, who)).max_by(f64::total_cmp)
        };
        let ratio = |who| Some(drained(Ours)? / drained(who)?);
        let beside = |measure, who| Some(rate(measure, Ours)? / rate(measure, who)?);
        let deep = || Some(rate(Measure::Backlog1m, Ours)? / rate(Measure::Drain50, Ours)?);
        let latency = |measure| self.of(measure, testkit::contest::P50_MS, Ours);
        let flooded = || Some(latency(Measure::LatencyFlood)? / latency(Measure::Latency)?);
        let targets = [
            at_least("push in batches ≥ 100 000 jobs/s", rate(Measure::PushBatch, Ours), 100_000.0),
            at_least("drain ≥ 60 000 jobs/s at its best concurrency", drained(Ours), 60_000.0),
            at_least("drain ≥ 8 × BullMQ, each at its best concurrency", ratio(Bullmq), 8.0),
            at_least(
                "drain ≥ 1 × apalis-redis, each at its best concurrency",
                ratio(ApalisRedis),
                1.0,
            ),
            at_least("drain ≥ 0.75 × the raw stream", ratio(Raw), 0.75),
            at_least("single pushes ≥ 1 × apalis-redis", beside(Measure::Push, ApalisRedis), 1.0),
            at_least(
                "drain of a backlog of 1 000 ≥ 1 × apalis-redis",
                beside(Measure::Backlog1k, ApalisRedis),
                1.0,
            ),
            at_most(
                "start latency when idle, p99 ≤ 5 ms",
                self.of(Measure::Latency, testkit::contest::P99_MS, Ours),
                5.0,
            ),
            at_most(
                "start latency during another tenant's 100 000 jobs ≤ 2 × idle, p50",
                flooded(),
                2.0,
            ),
            at_least("drain of a backlog of 1 000 000 ≥ 0.9 × the rate of 50 000", deep(), 0.9),
            at_most(
                "memory per queued job ≤ 400 bytes in addition to its payload",
                self.of(Measure::Memory, super::measure::PER_JOB, Ours),
                400.0,
            ),
        ];
        targets.into_iter().flatten().collect()
    }

    /// All results, for programs.
    pub(super) fn json(&self) -> Value {
        let mut json = self.circumstances.json(&self.measured_at);
        for (who, version) in &self.versions {
            json["versions"][key(*who)] = json!(version);
        }
        json["skipped"] = json!(self.skipped);
        json["figures"] = self.rows().iter().map(Row::json).collect();
        json
    }
}

impl Row {
    fn json(&self) -> Value {
        let medians: BTreeMap<Contestant, f64> =
            self.samples.keys().filter_map(|who| Some((*who, self.median(*who)?))).collect();
        let Figure { name, unit, .. } = self.figure;
        json!({ "name": name, "unit": unit.name(), "rounds": self.rounds(), "median": medians, "samples": self.samples })
    }
}

/// The measurements among which the best drain of a contestant is found.
const DRAINS: [Measure; 4] =
    [Measure::Drain1, Measure::Drain10, Measure::Drain50, Measure::Drain200];

/// Its name in JSON.
fn key(who: impl Serialize) -> String {
    serde_json::to_value(who)
        .ok()
        .and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A small run: ours against one peer and the upper limit, with another peer missing.
    pub(in crate::jobs) fn sample() -> Results {
        let word = || "x".to_owned();
        let circumstances = Circumstances {
            command: "cargo xtask bench jobs".to_owned(),
            cores: 2,
            cpu: "A <fast> processor".to_owned(),
            kernel: word(),
            load_average: "0.1".to_owned(),
            commit: word(),
            rustc: word(),
            mongodb: word(),
            redis: "7.0.15".to_owned(),
        };
        let mut results = Results {
            measured_at: "2026-01-02T03:04:05Z".to_owned(),
            ..Results::new(circumstances)
        };
        results.take_part(Contestant::Ours, "jobs 0.1.0".to_owned());
        results.take_part(Contestant::Bullmq, "BullMQ 6".to_owned());
        results.skip(Contestant::Sidekiq, "there is no Ruby here".to_owned());
        let rate = |rate: f64| Values::from([(testkit::contest::PER_SECOND.to_owned(), rate)]);
        for (ours, bullmq) in [(50_000.0, 7_000.0), (70_000.0, 7_500.0), (61_000.0, 9_000.0)] {
            results.add(Measure::Drain50, Contestant::Ours, &rate(ours));
            results.add(Measure::Drain50, Contestant::Bullmq, &rate(bullmq));
        }
        let latency = Values::from([("p50_ms".to_owned(), 0.4), ("p99_ms".to_owned(), 6.0)]);
        results.add(Measure::Latency, Contestant::Ours, &latency);
        results.leave(Measure::Backlog1m, Contestant::Bullmq, "it would take minutes");
        results
    }

    #[test]
    fn medians_and_ratios_are_computed() {
        let rows = sample().rows();
        assert_eq!(rows[0].median(Contestant::Ours), Some(61_000.0));
        assert_eq!(rows[0].spread(Contestant::Bullmq), Some((7_000.0, 9_000.0)));
        let advantage = rows[0].advantage(Contestant::Bullmq).unwrap();
        assert!((advantage - 61_000.0 / 7_500.0).abs() < 1e-9);
    }

    #[test]
    fn only_targets_that_were_measured_are_judged() {
        let met: Vec<bool> = sample().targets().iter().map(|target| target.met).collect();
        // Drain, drain against BullMQ, latency.
        assert_eq!(met, [true, true, false]);
    }

    #[test]
    fn the_json_contains_every_number_and_skipped_peers() {
        let json = sample().json();
        assert_eq!(json["figures"][0]["median"], json!({ "ours": 61_000.0, "bullmq": 7_500.0 }));
        assert_eq!(
            (&json["figures"][0]["unit"], &json["figures"][0]["rounds"]),
            (&json!("jobs/s"), &json!(3))
        );
        assert_eq!(json["skipped"]["sidekiq"], "there is no Ruby here");
        assert_eq!(json["versions"]["bullmq"], "BullMQ 6");
    }
}
