//! The names of a queue's keys in Redis.

use crate::Queue;

/// The consumer group that every worker reads in.
pub(crate) const GROUP: &str = "workers";

/// What a stream's name ends with.
const STREAM: &str = "stream";

/// Those of one queue's keys that are used outside of its scripts, which make the names of the
/// others from the stream's. All carry the same hash tag, so a queue lives in one slot of a cluster
/// and a script may touch all of them.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Stream: jobs that wait to be fetched or run.
    pub(crate) stream: String,
    /// Hash: where each job is that waits, runs or is delayed.
    pub(crate) jobs: String,
    /// Sorted set: ids of dead letters by when they died.
    pub(crate) dead: String,
    /// Hash: dead letters.
    pub(crate) dead_bodies: String,
    /// Channel: tells that something is due earlier than was known, or is to be cancelled.
    pub(crate) wake: String,
}

impl Keys {
    /// The keys of `queue` in the installation that `prefix` names.
    pub(crate) fn new(prefix: &str, queue: Queue) -> Self {
        let key = |name: &str| format!("{{{prefix}:{queue}}}:{name}");
        Self {
            stream: key(STREAM),
            jobs: key("jobs"),
            dead: key("dead"),
            dead_bodies: key("dead_bodies"),
            wake: key("wake"),
        }
    }
    /// The key of this name, as the scripts make it.
    pub(crate) fn named(&self, name: &[u8]) -> Vec<u8> {
        [self.stream.trim_end_matches(STREAM).as_bytes(), name].concat()
    }
}
