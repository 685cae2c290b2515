//! Every schedule: what comes of itself, and when, at a glance.

use jobs::{
    maintenance::Canary,
    schedules::{InvalidCron, Missed, Schedule},
};

/// The schedules of this release.
///
/// # Errors
/// When an expression makes no sense, which a test rules out.
pub(crate) fn schedules() -> Result<Vec<Schedule>, InvalidCron> {
    Ok(vec![Schedule::new("maintenance.canary", "* * * * *", Missed::Once, |tick| Canary { tick_ms: tick.timestamp_millis() })?])
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_expression_makes_sense() {
        assert!(!super::schedules().unwrap().is_empty());
    }
}
