//! Parsers of command-line arguments.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use jobs::Queue;

/// A queue by name; the help lists all of them.
pub(super) fn queue() -> impl TypedValueParser<Value = Queue> {
    PossibleValuesParser::new(Queue::ALL.iter().map(|queue| queue.name()))
        .try_map(|name| name.parse::<Queue>())
}

/// A reason, which must not be empty.
pub(super) fn reason(text: &str) -> Result<String, &'static str> {
    let reason = text.trim();
    if reason.is_empty() {
        Err("give a reason, for operators who find the queue paused")
    } else {
        Ok(reason.to_owned())
    }
}
