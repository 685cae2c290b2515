//! Every schedule: what comes of itself, and when, at a glance.

use common::config::{self, Config, Mistake, Mistakes};
use domain::{
    platform::{canary::Canary, purge::Purge},
    tenancy::tenant_domains::RecheckDomains,
};
use jobs::schedules::{InvalidCron, Missed, Schedule};

/// The schedules of this release.
///
/// # Errors
/// When an expression makes no sense: that of the configuration, for a test rules it out for the
/// others.
pub(crate) fn schedules(config: &config::Maintenance) -> Result<Vec<Schedule>, InvalidCron> {
    Ok(vec![
        Schedule::new("maintenance.canary", "* * * * *", Missed::Once, |tick| Canary {
            tick_ms: tick.timestamp_millis(),
        })?,
        Schedule::new("maintenance.purge", &config.purge_schedule, Missed::Once, |_| Purge {})?,
        Schedule::new("tenant_domain.recheck", "43 * * * *", Missed::Once, |_| RecheckDomains {})?,
    ])
}

/// The configuration, if its schedules make sense: what a cron expression is only the engine knows.
///
/// # Errors
/// When they do not.
pub(crate) fn checked(config: Config) -> Result<Config, Mistakes> {
    match schedules(&config.maintenance) {
        Ok(_) => Ok(config),
        Err(error) => Err(Mistakes(vec![Mistake {
            key: "maintenance.purge_schedule".to_owned(),
            problem: error.to_string(),
        }])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expression_makes_sense() {
        let mut sources = config::Sources::default();
        sources
            .add_environment([("TENANTRY__APP__ENVIRONMENT".to_owned(), "development".to_owned())]);
        let config = Config::load(sources).unwrap();
        assert_eq!(schedules(&config.maintenance).unwrap().len(), 3);
    }
}
