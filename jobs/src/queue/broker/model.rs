//! Any interleaving of operations on a queue keeps every job in exactly one place.
//!
//! Random sequences of operations are applied, one by one, to a queue in Redis and to a plain model
//! of it. After each operation, everything that Redis stores is compared with the model. A failing
//! sequence is shrunk and printed. `PROPTEST_CASES` sets the number of sequences.

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
/// Number of sequences, unless `PROPTEST_CASES` is set.
const CASES: u32 = 96;
/// Number of crowds, unless `PROPTEST_CASES` is set.
const CROWDS: u32 = 32;
/// Maximum time for shrinking a failing sequence.
const SHRINK_MS_MAX: u32 = 60_000;

/// Sets how many jobs of one tenant may be ready or running at once.
fn limit(broker: &mut Broker, tenant_concurrency: u32) {
    let settings = QueueSettings { tenant_concurrency, ..*broker.settings(QUEUE) };
    broker.jobs.queues = [(QUEUE, settings)].into_iter().collect();
}

/// Jobs in a sequence.
const JOBS: usize = 10;
const TENANTS: usize = 2;
const CONSUMERS: usize = 3;
/// Unique keys.
const KEYS: usize = 2;
/// Initial limit of jobs per tenant in the stream.
const LIMIT: u32 = 2;

fn runner(cases: u32) -> TestRunner {
    let defaults = Config::default();
    let cases = if testkit::variable("PROPTEST_CASES").is_some() { defaults.cases } else { cases };
    TestRunner::new(Config {
        cases,
        max_shrink_time: SHRINK_MS_MAX,
        failure_persistence: None,
        ..defaults
    })
}

/// Queues on one server, a new one for each case.
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
        // Every taken job can be taken over immediately.
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
fn concurrent_consumers_lose_no_job_and_leave_nothing_behind() {
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
