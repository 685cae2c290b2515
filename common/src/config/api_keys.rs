//! Configuration of API keys.

use std::time::Duration;

use super::reader::Reader;

/// The highest limit that can be configured here: a tenant's keys are counted at every change.
const COUNT_MAX: u64 = 1_000;

/// The `api_keys` section.
#[derive(Debug, Clone)]
pub struct ApiKeys {
    /// API keys a tenant may have.
    pub max: u64,
    /// How much the time of a signed request may differ from the clock of the server.
    pub signature_tolerance: Duration,
}

impl ApiKeys {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            max: r.count_up_to(COUNT_MAX, "api_keys.max", "100", "API keys a tenant may have"),
            signature_tolerance: r.period(
                "api_keys.signature_tolerance",
                "5m",
                "How much the time in the signature of a request (`X-Signature`) may differ from the time of the server",
            ),
        }
    }
}
