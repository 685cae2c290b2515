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
