//! The names of a queue's keys in Redis.

use crate::Queue;

/// The consumer group that every worker reads in.
pub(crate) const GROUP: &str = "workers";
/// The field of a stream's entry that holds the envelope.
pub(crate) const ENVELOPE: &str = "e";
/// The field that marks an entry handed over again, so that its outbox row is looked at first.
pub(crate) const REDELIVERED: &str = "r";

/// One queue's keys. All carry the same hash tag, so a queue lives in one slot of a cluster and a
/// script may touch all of them.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Stream: jobs that wait or run.
    pub(crate) stream: String,
    /// Set: ids of jobs that wait, run or are delayed.
    pub(crate) known: String,
    /// Set: ids that finished lately.
    pub(crate) finished: String,
    /// Set: ids that finished before those.
    pub(crate) finished_before: String,
    /// Exists while `finished` is young enough to be added to.
    pub(crate) finished_since: String,
    /// Sorted set: ids of delayed jobs by when they are due.
    pub(crate) delayed: String,
    /// Hash: envelopes of delayed jobs.
    pub(crate) bodies: String,
    /// Sorted set: ids of dead letters by when they died.
    pub(crate) dead: String,
    /// Hash: dead letters.
    pub(crate) dead_bodies: String,
    /// Channel: tells that something is due earlier than was known.
    pub(crate) wake: String,
}

impl Keys {
    /// The keys of `queue` in the installation that `prefix` names.
    pub(crate) fn new(prefix: &str, queue: Queue) -> Self {
        let key = |name: &str| format!("{{{prefix}:{queue}}}:{name}");
        Self {
            stream: key("stream"),
            known: key("known"),
            finished: key("finished"),
            finished_before: key("finished_before"),
            finished_since: key("finished_since"),
            delayed: key("delayed"),
            bodies: key("bodies"),
            dead: key("dead"),
            dead_bodies: key("dead_bodies"),
            wake: key("wake"),
        }
    }
}
