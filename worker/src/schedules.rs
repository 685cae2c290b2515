//! All schedules of the worker.

use common::config::{self, Config, Mistake, Mistakes};
use domain::{
    platform::{canary::Canary, purge::Purge},
    tenancy::tenant_domains::RecheckDomains,
};
use jobs::schedules::{InvalidCron, Missed, Schedule};

/// The schedules of this release. Fails if the configured expression is invalid; a test covers the
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

/// Checks the schedules of a configuration: only the engine can parse cron expressions.
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
    use domain::queues;

    use super::*;

    #[test]
    fn every_expression_is_valid() {
        let mut sources = config::Sources::new(queues::ALL);
        sources
            .add_environment([("TENANTRY__APP__ENVIRONMENT".to_owned(), "development".to_owned())]);
        let config = Config::load(sources).unwrap();
        assert_eq!(schedules(&config.maintenance).unwrap().len(), 3);
    }
}
