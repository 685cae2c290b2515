//! The engine's promises, each a test against real servers. One binary, so that it is linked once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod crashes;
mod draining;
mod failures;
mod redis_faults;
mod staging;
mod steering;
mod support;
