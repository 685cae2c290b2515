//! Configuration of requests with an `Idempotency-Key`.

use std::time::Duration;

use super::reader::Reader;

/// The `idempotency` section.
#[derive(Debug, Clone, Copy)]
pub struct Idempotency {
    /// How long a key is remembered, with the response to its request.
    pub ttl: Duration,
}

impl Idempotency {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            ttl: r.period(
                "idempotency.ttl",
                "24h",
                "How long an `Idempotency-Key` is remembered, with the response to its request; a request that is repeated later is carried out again",
            ),
        }
    }
}
