//! The installation's own upkeep.

use std::time::Duration;

use super::reader::Reader;

/// Expired rows that no job purged are removed by a TTL index after this time.
pub const PURGE_AFTER_MAX: Duration = Duration::from_hours(7 * 24);

/// The installation's own upkeep.
#[derive(Debug, Clone)]
pub struct Maintenance {
    /// When what is over is removed: a cron expression, in UTC.
    pub purge_schedule: String,
    /// It is kept for this long before.
    pub purge_after: Duration,
}

impl Maintenance {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            purge_schedule: r.value(
                "maintenance.purge_schedule",
                "17 * * * *",
                "when expired links and invitations and sessions that are over are removed: a cron expression of five fields, or six with the second in front, in UTC",
            ),
            purge_after: r.period(
                "maintenance.purge_after",
                "24h",
                "how long they are kept before; longer than a mail about a session may be under way, and less than 7d, when MongoDB removes them by itself",
            ),
        }
    }
}
