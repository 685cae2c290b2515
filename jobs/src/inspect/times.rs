//! Serializes times as RFC 3339; the engine counts milliseconds.

use common::clock::rfc3339_millis;
use mongodb::bson::DateTime;
use serde::{Serialize, Serializer};

use crate::Failure;

/// A failure as serialized.
#[derive(Serialize)]
struct Failed<'a> {
    attempt: u32,
    at: String,
    error: &'a str,
}

fn text(millis: i64) -> String {
    rfc3339_millis(DateTime::from_millis(millis))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde requires this signature")]
pub(super) fn millis<S: Serializer>(millis: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*millis))
}

#[expect(clippy::ref_option, reason = "serde requires this signature")]
pub(super) fn maybe_millis<S: Serializer>(
    millis: &Option<i64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    millis.map(text).serialize(serializer)
}

pub(super) fn failures<S: Serializer>(
    failures: &[Failure],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(failures.iter().map(|Failure { attempt, at, error }| Failed {
        attempt: *attempt,
        at: text(*at),
        error,
    }))
}
