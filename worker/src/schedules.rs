//! All schedules of the worker.

use common::config::{self, Config, Mistake, Mistakes};
use domain::{
    platform::{canary::Canary, purge::Purge},
    tenancy::{api_keys::WarnExpiring, tenant_domains::RecheckDomains},
};
use jobs::schedules::{Cron, InvalidCron, Missed, Schedule};

/// The schedules of this release. Fails if a configured expression is invalid; a test covers the
/// others.
pub(crate) fn schedules(config: &config::Maintenance) -> Result<Vec<Schedule>, InvalidCron> {
    Ok(vec![
        Schedule::new("maintenance.canary", &config.canary_schedule, Missed::Once, |tick| {
            Canary { tick_ms: tick.timestamp_millis() }
        })?,
        Schedule::new("maintenance.purge", &config.purge_schedule, Missed::Once, |_| Purge {})?,
        Schedule::new("api_key.warn_expiring", "7 * * * *", Missed::Once, |_| WarnExpiring {})?,
        Schedule::new("tenant_domain.recheck", "43 * * * *", Missed::Once, |_| RecheckDomains {})?,
    ])
}

/// Checks the schedules of a configuration: only the engine can parse cron expressions.
pub(crate) fn checked(config: Config) -> Result<Config, Mistakes> {
    let config::Maintenance { canary_schedule, purge_schedule, .. } = &config.maintenance;
    let expressions = [
        ("maintenance.canary_schedule", canary_schedule),
        ("maintenance.purge_schedule", purge_schedule),
    ];
    let mistakes = expressions.into_iter().filter_map(|(key, expression)| {
        let problem = expression.parse::<Cron>().err()?.to_string();
        Some(Mistake { key: key.to_owned(), problem })
    });
    let mistakes: Vec<Mistake> = mistakes.collect();
    if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
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
        assert_eq!(schedules(&config.maintenance).unwrap().len(), 4);
    }
}
