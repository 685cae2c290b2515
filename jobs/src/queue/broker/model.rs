//! Any interleaving of what can happen to a queue keeps every job in exactly one place.
//!
//! Sequences of operations are made at random and done, one by one, to a queue in Redis and to a
//! plain model of it; after each, all that Redis holds is compared with the model. A sequence that
//! fails is shrunk and printed. `PROPTEST_CASES` raises their number.

mod drain;
mod op;
mod queue;
mod snapshot;
mod state;

use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use testkit::testing::TestEnv;

use self::{
    drain::drain,
    op::{ops, ops_of, specs},
    queue::{Cast, Twins},
};
use super::{Broker, tests};
use crate::{Queue, QueueSettings, test_queues::EMAIL};

const QUEUE: Queue = EMAIL;
/// Sequences tried, unless `PROPTEST_CASES` says another number.
const CASES: u32 = 96;
/// Crowds tried, likewise.
const CROWDS: u32 = 32;
/// A failing sequence is shrunk for this long at most.
const SHRINK_MS_MAX: u32 = 60_000;

/// Sets how many jobs of one tenant may be ready or running at once.
fn limit(broker: &mut Broker, tenant_concurrency: u32) {
    let settings = QueueSettings { tenant_concurrency, ..*broker.settings(QUEUE) };
    broker.jobs.queues = [(QUEUE, settings)].into_iter().collect();
}

/// Jobs that a sequence is about.
const JOBS: usize = 10;
const TENANTS: usize = 2;
const CONSUMERS: usize = 3;
/// Unique keys.
const KEYS: usize = 2;
/// A tenant's share of the stream, to begin with.
const LIMIT: u32 = 2;

fn runner(cases: u32) -> TestRunner {
    let told = Config::default();
    let cases = if testkit::variable("PROPTEST_CASES").is_some() { told.cases } else { cases };
    TestRunner::new(Config {
        cases,
        max_shrink_time: SHRINK_MS_MAX,
        failure_persistence: None,
        ..told
    })
}

/// Queues on one server, a fresh one a case.
struct Queues {
    runtime: tokio::runtime::Runtime,
    broker: Broker,
    _env: TestEnv,
}

impl Queues {
    fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let env = runtime.block_on(TestEnv::new());
        let mut broker = runtime.block_on(async { tests::unopened_broker(&env) });
        // Whatever is held may be taken over at once.
        broker.jobs.lease = std::time::Duration::ZERO;
        Self { runtime, broker, _env: env }
    }

    fn fresh(&self) -> Broker {
        let prefix = format!("{}:{}", self.broker.prefix, uuid::Uuid::now_v7().simple());
        Broker { prefix, ..self.broker.clone() }
    }
}

#[test]
fn every_job_is_in_exactly_one_place_whatever_happens() {
    let queues = Queues::new();
    let tried = runner(CASES).run(&(specs(), ops()), |(specs, ops)| -> TestCaseResult {
        queues.runtime.block_on(async {
            let mut twins = Twins::new(queues.fresh(), specs).await?;
            for op in &ops {
                twins.step(op).await?;
            }
            drain(&twins.broker, &twins.cast).await.map(drop)
        })
    });
    tried.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn a_crowd_loses_no_job_and_leaves_nothing_behind() {
    let queues = Queues::new();
    let case = (specs(), ops_of(0), ops_of(1), ops_of(2));
    let tried = runner(CROWDS).run(&case, |(specs, first, second, third)| -> TestCaseResult {
        queues.runtime.block_on(drain::crowd(
            queues.fresh(),
            Cast::new(&specs)?,
            [first, second, third],
        ))
    });
    tried.unwrap_or_else(|failure| panic!("{failure}"));
}
