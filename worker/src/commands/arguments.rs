//! Parsers of command-line arguments.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use domain::queues;
use jobs::Queue;

/// A queue by name; the help lists all of them.
pub(super) fn queue() -> impl TypedValueParser<Value = Queue> {
    PossibleValuesParser::new(queues::ALL.iter().map(|queue| queue.name())).try_map(|name| {
        let named = queues::ALL.iter().find(|queue| queue.name() == name);
        named.copied().ok_or("there is no queue of this name")
    })
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
