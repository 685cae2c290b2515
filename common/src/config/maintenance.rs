//! Configuration of the installation's maintenance.

use std::time::Duration;

use super::reader::Reader;

/// TTL indexes remove expired rows after this time if no job has purged them before.
pub const PURGE_AFTER_MAX: Duration = Duration::from_hours(7 * 24);

/// The `maintenance` section.
#[derive(Debug, Clone)]
pub struct Maintenance {
    /// When the canary runs: a cron expression, in UTC.
    pub canary_schedule: String,
    /// When expired rows are purged: a cron expression, in UTC.
    pub purge_schedule: String,
    /// How long expired rows are kept before they are purged.
    pub purge_after: Duration,
}

impl Maintenance {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            canary_schedule: r.value(
                "maintenance.canary_schedule",
                "* * * * *",
                "When the canary runs, which shows that scheduled jobs run: a cron expression in UTC. The alert JobsCanaryLate expects it every minute",
            ),
            purge_schedule: r.value(
                "maintenance.purge_schedule",
                "17 * * * *",
                "When expired links, invitations and sessions are removed: a cron expression of five fields, or six with seconds first, in UTC",
            ),
            purge_after: r.period(
                "maintenance.purge_after",
                "24h",
                "How long they are kept after they expire; must exceed the delay of a mail about a session, and be less than 7d, when MongoDB's TTL indexes remove them",
            ),
        }
    }
}
