//! Configuration of the job engine.

use std::time::Duration;

use super::{Queues, reader::Reader};
use crate::crypto::{MacKey, MasterKey};

/// Purpose of the key that signs envelopes.
const ENVELOPE_PURPOSE: &str = "job-envelope";

/// Upper limit of crashes that one job may cause.
const CRASHES_MAX: u64 = 10_000;
/// Upper limit of job ids or dead letters that Redis keeps per queue.
const REMEMBERED_MAX: u64 = 10_000_000;

/// The `jobs` section.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// How long a running job stays with a worker that has stopped responding.
    pub lease: Duration,
    /// A job that crashed its worker this many times becomes a dead letter.
    pub crashes_max: u32,
    /// How often the relay looks for jobs that the fast path missed.
    pub relay_interval: Duration,
    /// How often the outbox is compared with Redis.
    pub reconcile_interval: Duration,
    /// How long the ids of finished jobs are remembered.
    pub finished_memory: Duration,
    /// Ids of finished jobs remembered per queue.
    pub finished_max: u64,
    /// How long a job of an unknown kind waits for a worker that knows it.
    pub park_max: Duration,
    /// Longest wait after the first failure; doubled after each further one.
    pub backoff_base: Duration,
    /// Longest wait between attempts.
    pub backoff_max: Duration,
    /// How long dead letters are kept.
    pub dead_retention: Duration,
    /// Dead letters kept per queue; the oldest are deleted first.
    pub dead_max: u64,
    /// How long the history of jobs is kept; none to keep no history.
    pub history_ttl: Option<Duration>,
    /// Whether workers run jobs without a signature. Jobs with an invalid one never run.
    pub accept_unsigned: bool,
    /// Signs the envelopes of jobs; derived from `auth.master_key`.
    pub envelope_key: MacKey,
    /// The queues with their settings, from the `queues` sections.
    pub queues: Queues,
}

impl Jobs {
    pub(super) fn read(r: &mut Reader, master_key: &MasterKey) -> Self {
        Self {
            lease: r.period("jobs.lease", "30s", "How long a running job stays with a worker that has stopped responding"),
            crashes_max: r.count_up_to(CRASHES_MAX, "jobs.crashes_max", "3", "A job that crashed its worker this many times becomes a dead letter"),
            relay_interval: r.period("jobs.relay_interval", "1s", "How often the relay looks for jobs that the fast path missed"),
            reconcile_interval: r.period("jobs.reconcile_interval", "10s", "How often the outbox is compared with Redis"),
            finished_memory: r.period(
                "jobs.finished_memory",
                "10m",
                "How long the ids of finished jobs are remembered, so that a job enqueued twice runs once",
            ),
            finished_max: r.count_up_to(REMEMBERED_MAX, "jobs.finished_max", "200000", "Ids of finished jobs remembered per queue"),
            park_max: r.period("jobs.park_max", "1h", "How long a job of an unknown kind or version waits for a worker that knows it before it becomes a dead letter"),
            backoff_base: r.period("jobs.backoff_base", "2s", "Longest wait after the first failure; doubled after each further one"),
            backoff_max: r.period("jobs.backoff_max", "10m", "Longest wait between attempts"),
            dead_retention: r.period("jobs.dead_retention", "30d", "How long dead letters are kept"),
            dead_max: r.count_up_to(REMEMBERED_MAX, "jobs.dead_max", "100000", "Dead letters kept per queue; the oldest are deleted first"),
            history_ttl: r.optional_period("jobs.history_ttl", "0", "How long MongoDB keeps the history of each job, with its result; `0` to keep no history"),
            accept_unsigned: r.value("jobs.accept_unsigned", "false", "Whether workers run jobs without a signature. Set it to `true` while you deploy the first release that signs jobs, and remove it afterwards: while it is `true`, anyone who can write to Redis can make workers run jobs"),
            envelope_key: master_key.mac_key(ENVELOPE_PURPOSE),
            queues: Queues::read(r),
        }
    }
}
