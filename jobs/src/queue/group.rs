//! Groups: the jobs of one tenant, which share the tenant's limits.

use common::{config::QueueSettings, id::TenantId};

/// The group of a job: its tenant; none for jobs without a tenant, which have no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Group(Option<[u8; 16]>);

impl Group {
    /// The group of a tenant's jobs.
    pub(crate) fn of(tenant: Option<TenantId>) -> Self {
        Self(tenant.map(|tenant| *tenant.uuid().as_bytes()))
    }

    /// Parses a group from an entry; none if it is missing or invalid.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.try_into().ok())
    }

    /// As stored in keys and fields: the bare bytes of the id, or empty for none.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |bytes| bytes.as_slice())
    }
}

/// The limits as the scripts expect them: maximum number of jobs of a group in the stream, minimum
/// interval in milliseconds, and burst size.
pub(crate) fn limit_args(settings: &QueueSettings) -> (u32, f64, u32) {
    let (interval_ms, burst) = settings
        .tenant_rate
        .map_or((0.0, 1), |rate| (rate.interval().as_secs_f64() * 1_000.0, rate.burst()));
    (settings.tenant_concurrency, interval_ms, burst)
}
