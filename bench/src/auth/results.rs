//! The measured values, by round, and their medians.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::traffic::Traffic;
use crate::{
    figures::{Target, at_least, at_most, median},
    machine::{Circumstances, now},
};

/// A measured value of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Figure {
    HashThreads,
    Hashes,
    SignIns,
    SignInsOfHashes,
    SameHashes,
    HashingBusy,
    BareP50,
    BareP95,
    KnownP50,
    KnownP95,
    OverheadP95,
    SameP95,
    Hits,
    Misses,
    MongodbOperations,
    RedisCommands,
    OthersAloneP95,
    OthersFloodedP95,
    FloodOffered,
    FloodSignedIn,
    FloodShed,
    FloodLost,
    OthersBesideSlowP95,
}

impl Figure {
    /// Its name and unit.
    pub(super) const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::HashThreads => ("passwords hashed at once", "threads"),
            Self::Hashes => ("argon2 alone", "hashes/s"),
            Self::SignIns => ("sign-ins", "sign-ins/s"),
            Self::SignInsOfHashes => ("sign-ins ÷ argon2 alone", "ratio"),
            Self::SameHashes => ("argon2 alone ÷ itself, the control", "ratio"),
            Self::HashingBusy => ("hashing threads busy while people sign in", "share"),
            Self::BareP50 => ("unauthenticated request, p50", "ms"),
            Self::BareP95 => ("unauthenticated request, p95", "ms"),
            Self::KnownP50 => ("authenticated request, p50", "ms"),
            Self::KnownP95 => ("authenticated request, p95", "ms"),
            Self::OverheadP95 => ("authenticated − unauthenticated, p95", "ms"),
            Self::SameP95 => ("unauthenticated − itself, p95, the control", "ms"),
            Self::Hits => ("callers found in memory", "requests"),
            Self::Misses => ("callers looked up in the database", "requests"),
            Self::MongodbOperations => {
                ("MongoDB operations per request, beyond idle", "operations")
            }
            Self::RedisCommands => ("Redis commands per request, beyond idle", "commands"),
            Self::OthersAloneP95 => ("other requests without a flood, p95", "ms"),
            Self::OthersFloodedP95 => ("other requests during the flood, p95", "ms"),
            Self::FloodOffered => ("flood: offered", "sign-ins/s"),
            Self::FloodSignedIn => ("flood: signed in", "sign-ins/s"),
            Self::FloodShed => ("flood: 503 with Retry-After", "answers"),
            Self::FloodLost => ("flood: anything else", "answers"),
            Self::OthersBesideSlowP95 => ("other requests beside slow clients, p95", "ms"),
        }
    }
}

/// All results of a run so far.
pub(super) struct Results {
    pub(super) circumstances: Circumstances,
    /// When the run began (RFC 3339, UTC).
    pub(super) measured_at: String,
    samples: BTreeMap<Figure, Vec<f64>>,
    stores: Vec<Watched>,
}

/// Operations of the databases between two moments.
#[derive(Debug, Serialize)]
pub(super) struct Window {
    pub(super) before: Traffic,
    pub(super) after: Traffic,
}

/// Two windows of the same length: with requests of a signed-in user, and without.
#[derive(Debug, Serialize)]
struct Watched {
    loaded: Window,
    idle: Window,
}

impl Window {
    /// Operations of MongoDB with requests, minus those without.
    pub(super) fn mongodb_more_than(&self, idle: &Self) -> f64 {
        self.more_than(idle, |traffic| &traffic.mongodb)
    }

    /// Commands of Redis with requests, minus those without.
    pub(super) fn redis_more_than(&self, idle: &Self) -> f64 {
        self.more_than(idle, |traffic| &traffic.redis)
    }

    #[expect(clippy::cast_precision_loss, reason = "no server counts to 2^53 in one run")]
    fn more_than(&self, idle: &Self, of: fn(&Traffic) -> &BTreeMap<String, u64>) -> f64 {
        let total = |traffic: &Traffic| of(traffic).values().sum::<u64>() as f64;
        let within = |window: &Self| total(&window.after) - total(&window.before);
        within(self) - within(idle)
    }
}

impl Results {
    pub(super) fn new(circumstances: Circumstances) -> Self {
        Self { circumstances, measured_at: now(), samples: BTreeMap::new(), stores: Vec::new() }
    }

    pub(super) fn add(&mut self, figure: Figure, value: f64) {
        self.samples.entry(figure).or_default().push(value);
    }

    /// Stores the counts of the databases, for the report.
    pub(super) fn watched(&mut self, loaded: Window, idle: Window) {
        self.stores.push(Watched { loaded, idle });
    }

    /// Whether there are any results.
    pub(super) fn any(&self) -> bool {
        !self.samples.is_empty()
    }

    /// All values by round, in the order of the report.
    pub(super) fn figures(&self) -> impl Iterator<Item = (Figure, &[f64])> {
        self.samples.iter().map(|(figure, samples)| (*figure, samples.as_slice()))
    }

    pub(super) fn median(&self, figure: Figure) -> Option<f64> {
        median(self.samples.get(&figure)?)
    }

    fn most(&self, figure: Figure) -> Option<f64> {
        self.samples.get(&figure)?.iter().copied().max_by(f64::total_cmp)
    }

    /// The targets for which this run has values.
    pub(super) fn targets(&self) -> Vec<Target> {
        let targets = [
            at_least("sign-ins ≥ 0.9 × argon2 alone", self.median(Figure::SignInsOfHashes), 0.9),
            at_least(
                "the hashing threads are busy ≥ 0.9 of the time",
                self.median(Figure::HashingBusy),
                0.9,
            ),
            at_most("authentication adds ≤ 1 ms, p95", self.median(Figure::OverheadP95), 1.0),
            at_most(
                "no MongoDB operations per request (≤ 0.05, because idle load varies)",
                self.median(Figure::MongodbOperations),
                0.05,
            ),
            at_most(
                "no Redis commands per request (≤ 0.05, because idle load varies)",
                self.median(Figure::RedisCommands),
                0.05,
            ),
            at_most(
                "other requests during the flood ≤ 200 ms, p95",
                self.median(Figure::OthersFloodedP95),
                200.0,
            ),
            at_most(
                "no request of the flood is lost or refused in another way, in any round",
                self.most(Figure::FloodLost),
                0.0,
            ),
            at_most(
                "other requests beside slow clients ≤ 50 ms, p95",
                self.median(Figure::OthersBesideSlowP95),
                50.0,
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
        json["stores"] = json!(self.stores);
        json
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A small run of two rounds, without a flood.
    pub(in crate::auth) fn sample() -> Results {
        let word = || "x".to_owned();
        let circumstances = Circumstances {
            command: "cargo xtask bench auth".to_owned(),
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
        for (ratio, overhead) in [(0.95, 0.3), (0.93, 0.5)] {
            results.add(Figure::SignInsOfHashes, ratio);
            results.add(Figure::OverheadP95, overhead);
            results.add(Figure::MongodbOperations, 1.5);
        }
        results
    }

    fn window(before: [u64; 2], after: [u64; 2]) -> Window {
        let traffic = |[query, get]: [u64; 2]| Traffic {
            mongodb: [("query".to_owned(), query), ("command".to_owned(), 7)].into(),
            redis: [("get".to_owned(), get)].into(),
        };
        Window { before: traffic(before), after: traffic(after) }
    }

    #[test]
    fn only_targets_that_were_measured_are_judged() {
        let met: Vec<bool> = sample().targets().iter().map(|target| target.met).collect();
        // Sign-ins, overhead, MongoDB.
        assert_eq!(met, [true, true, false]);
    }

    #[test]
    fn operations_of_an_idle_database_do_not_count() {
        let (loaded, idle) = (window([100, 50], [1_100, 90]), window([1_100, 90], [1_130, 130]));
        assert!((loaded.mongodb_more_than(&idle) - 970.0).abs() < 1e-9);
        assert!(loaded.redis_more_than(&idle).abs() < 1e-9);
    }

    #[test]
    fn the_json_contains_every_number_target_and_count() {
        let mut results = sample();
        results.watched(window([1, 2], [3, 4]), window([5, 6], [7, 8]));
        let json = results.json();
        assert_eq!(json["figures"][0]["name"], "sign-ins ÷ argon2 alone");
        assert_eq!(
            (&json["figures"][0]["median"], &json["figures"][0]["samples"]),
            (&json!(0.94), &json!([0.95, 0.93]))
        );
        assert_eq!(json["targets"][2]["met"], false);
        assert_eq!(json["stores"][0]["idle"]["after"]["redis"]["get"], 8);
        assert_eq!(json["versions"]["redis"], "x");
    }
}
