//! The engine's guarantees, each tested against real servers. One binary, so that it is linked once.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]
#![expect(clippy::disallowed_methods, reason = "tests stage what the fast path does not know")]

mod batches;
mod control;
mod crashes;
mod delays;
mod draining;
mod examples;
mod failures;
mod fairness;
mod history;
mod progress;
mod redis_faults;
mod schedules;
mod signatures;
mod staging;
mod support;
mod testing;
mod topologies;
mod unique;
mod versions;
