//! Checks of the DNS records that verify tenants' domains.

use std::{sync::Arc, time::Duration};

use common::{clock::millis_of, id::TenantDomainId, telemetry::metrics};
use domain::tenancy::tenant_domains::{
    CheckDomain, CheckDomains, EndDomainGrace, Found, InviteByDomain, InviteColleague, NoteRecord,
    RecheckDomains, TenantDomain,
};
use jobs::{JobError, Running};
use mongodb::bson::DateTime;

use super::invite_links::outcome;
use crate::app::App;

/// After this many attempts the name servers are considered unavailable.
const DNS_TRIES: u32 = 4;
/// A verified domain is checked again after this time.
const RECHECKED_AFTER: Duration = Duration::from_hours(24);
/// Domains checked again by one job; the rest is left to the next job.
const RECHECKED_MAX: i64 = 1_000;
/// Checks staged in one transaction.
const STAGED_TOGETHER: usize = 100;

/// Checks whether a domain's record exists. If its name servers do not answer, the check is retried,
/// and the failure finally recorded.
pub(crate) async fn check(job: CheckDomain, running: Running<App>) -> Result<(), JobError> {
    look_up(job.domain, &running).await
}

/// Checks it at the moment at which its grace period ends.
pub(crate) async fn end_grace(job: EndDomainGrace, running: Running<App>) -> Result<(), JobError> {
    look_up(job.domain, &running).await
}

async fn look_up(domain: TenantDomainId, running: &Running<App>) -> Result<(), JobError> {
    let (app, scope) = (Arc::clone(&running.app), running.scope()?);
    let Some(domain) = TenantDomain::of(&app.store, scope, domain).await? else {
        tracing::info!("domain_removed");
        return Ok(());
    };
    let found = match app.dns.texts(&domain.record_name()).await {
        Ok(texts) if texts.contains(&domain.record_value(&app.key)) => Found::Record,
        Ok(_) => Found::Nothing,
        Err(error) if running.attempt < DNS_TRIES => return Err(JobError::retry(error)),
        Err(error) => {
            tracing::info!(domain = %domain.id, %error, "dns_unavailable");
            Found::NoAnswer
        }
    };
    let note = NoteRecord { scope, domain: domain.id, found, grace: app.members.domain_grace };
    if let Some(status) = app.jobs.commit(&running.origin(), &note).await? {
        metrics::DOMAIN_CHECKS.with_label_values(&[status.as_str()]).inc();
        tracing::info!(domain = %domain.id, status = status.as_str(), ?found, "domain_checked");
    }
    Ok(())
}

/// Invites a person to the tenant that admits their email domain.
pub(crate) async fn invite(job: InviteByDomain, running: Running<App>) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let invite = InviteColleague {
        key: &app.key,
        scope: running.scope()?,
        user: job.user,
        conditions: app.invitations(),
    };
    let outcome = outcome(app.jobs.commit(&running.origin(), &invite).await, "closed")?;
    metrics::DOMAIN_INVITATIONS.with_label_values(&[outcome]).inc();
    Ok(())
}

/// Stages checks of domains that were verified long ago.
pub(crate) async fn recheck(_: RecheckDomains, running: Running<App>) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let before = DateTime::from_millis(
        app.store.clock().now().timestamp_millis().saturating_sub(millis_of(RECHECKED_AFTER)),
    );
    let stale = TenantDomain::stale(&app.store, before, RECHECKED_MAX).await?;
    for some in stale.chunks(STAGED_TOGETHER) {
        app.jobs.commit(&running.origin(), &CheckDomains::of(some)).await?;
    }
    Ok(running.result(&stale.len())?)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test stands in for the job engine")]
mod tests {
    use common::{
        clock::{Clock, later},
        db::TenantScope,
        origin::Origin,
    };
    use domain::tenancy::{actor::Actor, tenant_domains::AddDomain};
    use jobs::testing;

    use super::*;
    use crate::testing::DemoWorld;

    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn a_verified_domain_is_checked_every_day() {
        let clock = Clock::manual(DateTime::now());
        let world = DemoWorld::new(clock.clone()).await;
        let scope = TenantScope::of_job(world.tenant);
        let actor = Actor::on_behalf_of(scope, world.user.id.into());
        let mut ids = Vec::new();
        for name in ["verified.example", "missing.example", "pending.example"] {
            let add = AddDomain { actor, domain: name.parse().unwrap(), max: 10 };
            ids.push(world.jobs.commit(&Origin::system(), &add).await.unwrap().id);
        }
        for (id, found) in [(ids[0], Found::Record), (ids[1], Found::Nothing)] {
            world
                .jobs
                .commit(&Origin::system(), &NoteRecord { scope, domain: id, found, grace: HOUR })
                .await
                .unwrap();
        }
        let staged = async || {
            world.worker.run(None, &RecheckDomains {}).await.unwrap();
            let staged = testing::staged::<CheckDomain>(&world.store).await.unwrap();
            staged.into_iter().map(|row| (row.tenant, row.job.domain)).collect::<Vec<_>>()
        };
        assert_eq!(staged().await, []);
        clock.advance(RECHECKED_AFTER + HOUR);
        assert_eq!(staged().await, [(Some(world.tenant), ids[0])]);
    }

    #[tokio::test]
    async fn the_end_of_a_grace_period_is_checked_once_and_at_its_moment() {
        let clock = Clock::manual(DateTime::now());
        let world = DemoWorld::new(clock.clone()).await;
        let scope = TenantScope::of_job(world.tenant);
        let actor = Actor::on_behalf_of(scope, world.user.id.into());
        let add = AddDomain { actor, domain: "verified.example".parse().unwrap(), max: 10 };
        let domain = world.jobs.commit(&Origin::system(), &add).await.unwrap().id;
        let note = async |found| {
            let note = NoteRecord { scope, domain, found, grace: HOUR * 3 };
            world.jobs.commit(&Origin::system(), &note).await.unwrap()
        };
        let staged = async || {
            let staged = testing::staged::<EndDomainGrace>(&world.store).await.unwrap();
            staged.into_iter().map(|row| row.due_at.unwrap()).collect::<Vec<_>>()
        };
        note(Found::Record).await;
        assert_eq!(staged().await, []);
        let missing_since = clock.now();
        for _ in 0..2 {
            note(Found::Nothing).await;
            clock.advance(HOUR);
        }
        assert_eq!(staged().await, [later(missing_since, HOUR * 3)]);
        clock.advance(HOUR);
        assert_eq!(note(Found::NoAnswer).await.unwrap().as_str(), "no_answer", "its time is over");
    }
}
