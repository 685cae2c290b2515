//! How what an operator types is understood.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use jobs::Queue;

/// A queue by its name; the help lists them all.
pub(super) fn queue() -> impl TypedValueParser<Value = Queue> {
    PossibleValuesParser::new(Queue::ALL.iter().map(|queue| queue.name()))
        .try_map(|name| name.parse::<Queue>())
}

/// Why something is done: words that tell whoever comes after.
pub(super) fn reason(text: &str) -> Result<String, &'static str> {
    let reason = text.trim();
    if reason.is_empty() {
        Err("say why, for whoever finds the queue paused")
    } else {
        Ok(reason.to_owned())
    }
}
