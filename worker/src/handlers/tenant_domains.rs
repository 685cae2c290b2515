//! Looking for the records that prove tenants' domains.

use std::{sync::Arc, time::Duration};

use common::{
    ambient::millis_of,
    telemetry::metrics,
    tenant_domains::{NoteRecord, TenantDomain},
};
use jobs::{
    JobError, Running,
    tenant_domains::{CheckDomain, CheckDomains, RecheckDomains},
};
use mongodb::bson::DateTime;

use super::scope;
use crate::app::App;

/// A verified domain is looked at again after this long.
const RECHECKED_AFTER: Duration = Duration::from_hours(24);
/// So many are looked at again in one go; what is more waits for the next.
const RECHECKED_MAX: i64 = 1_000;
/// So many are staged together.
const STAGED_TOGETHER: usize = 100;

/// Looks whether a domain's record is there. Where DNS does not answer nothing is noted, and it is tried again.
pub(crate) async fn check(job: CheckDomain, running: Running<App>) -> Result<(), JobError> {
    let (app, scope) = (Arc::clone(&running.app), scope(&running)?);
    let Some(domain) = TenantDomain::of(&app.store, scope, job.domain).await? else {
        tracing::info!("domain_removed");
        return Ok(());
    };
    let texts = app.dns.texts(&domain.record_name()).await.map_err(|error| {
        metrics::DOMAIN_CHECKS.with_label_values(&["no_answer"]).inc();
        JobError::retry(error)
    })?;
    let is_there = texts.contains(&domain.record_value(&app.key));
    let note = NoteRecord { scope, domain: domain.id, is_there, grace: app.domain_grace };
    if let Some(status) = app.store.commit(&note).await? {
        metrics::DOMAIN_CHECKS.with_label_values(&[status.as_str()]).inc();
        tracing::info!(domain = %domain.id, status = status.as_str(), is_there, "domain_checked");
    }
    Ok(())
}

/// Has the records looked for of domains that were verified a while ago.
pub(crate) async fn recheck(_: RecheckDomains, running: Running<App>) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let before = DateTime::from_millis(app.store.ambient().now().timestamp_millis().saturating_sub(millis_of(RECHECKED_AFTER)));
    let stale = TenantDomain::stale(&app.store, before, RECHECKED_MAX).await?;
    for some in stale.chunks(STAGED_TOGETHER) {
        app.jobs.commit(&CheckDomains::of(some)).await?;
    }
    Ok(running.result(&stale.len())?)
}

#[cfg(test)]
mod tests {
    use common::{ambient::Ambient, db::TenantScope, memberships::Actor, tenant_domains::AddDomain};
    use jobs::testing;

    use super::*;
    use crate::testing::DemoWorld;

    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn a_verified_domain_is_looked_at_again_every_day() {
        let ambient = Ambient::manual(DateTime::now());
        let world = DemoWorld::new(ambient.clone()).await;
        let scope = TenantScope::vouched(world.tenant);
        let actor = Actor { scope, user: world.user.id };
        let mut ids = Vec::new();
        for name in ["verified.example", "missing.example", "pending.example"] {
            let add = AddDomain { actor, domain: name.parse().unwrap(), max: 10 };
            ids.push(world.store.commit(&add).await.unwrap().id);
        }
        for (id, is_there) in [(ids[0], true), (ids[1], false)] {
            world.store.commit(&NoteRecord { scope, domain: id, is_there, grace: HOUR }).await.unwrap();
        }
        let staged = async || {
            world.worker.run(None, &RecheckDomains {}).await.unwrap();
            let staged = testing::staged::<CheckDomain>(&world.store).await.unwrap();
            staged.into_iter().map(|row| (row.tenant, row.job.domain)).collect::<Vec<_>>()
        };
        assert_eq!(staged().await, []);
        ambient.advance(RECHECKED_AFTER + HOUR);
        assert_eq!(staged().await, [(Some(world.tenant), ids[0])]);
    }
}
