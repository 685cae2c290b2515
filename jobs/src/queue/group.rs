//! What a job shares its part of a queue with: the other jobs of its tenant.

use common::{config::QueueSettings, id::TenantId};

/// The group of a job: its tenant, or none, which knows no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Group(Option<[u8; 16]>);

impl Group {
    /// The group of a tenant's jobs.
    pub(crate) fn of(tenant: Option<TenantId>) -> Self {
        Self(tenant.map(|tenant| *tenant.uuid().as_bytes()))
    }

    /// From a stream's entry; none where it has none or one that is not ours.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.try_into().ok())
    }

    /// As it stands in keys and fields: bare bytes, none of them for no group.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |bytes| bytes.as_slice())
    }
}

/// The limits as every script that admits jobs takes them: jobs of a group at once, the ms between
/// two of them and how many after a pause.
pub(crate) fn limit_args(settings: &QueueSettings) -> (u32, f64, u32) {
    let (interval_ms, burst) = settings
        .tenant_rate
        .map_or((0.0, 1), |rate| (rate.interval().as_secs_f64() * 1_000.0, rate.burst()));
    (settings.tenant_concurrency, interval_ms, burst)
}
