//! Mails about API keys, and the end of keys that leaked.

use std::sync::Arc;

use common::{
    clock::{between, rfc3339},
    telemetry::metrics,
};
use domain::{
    people::users::User,
    tenancy::{
        api_keys::{
            ApiKey, EndLeaked, EndLeakedApiKeys, Notice, SendApiKeyNotice, WarnExpiring, WarnSome,
        },
        memberships::Membership,
        tenants::Tenant,
    },
};
use jobs::{JobError, Running};
use mongodb::bson::DateTime;
use serde_json::{Value, json};

use crate::{
    app::App,
    templates::{API_KEY_EXPIRING, API_KEYS_LEAKED, API_KEYS_SUSPENDED},
};

/// Keys of which one sweep warns; the rest is left to the next.
const WARNED_MAX: i64 = 1_000;
/// Keys whose warnings are staged in one transaction.
const WARNED_TOGETHER: usize = 100;
const HOURS_PER_DAY: u64 = 24;

/// Notifies a member about keys of their tenant, unless that is no longer true.
pub(crate) async fn send_notice(
    job: SendApiKeyNotice,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let scope = running.scope()?;
    let (tenant, user) =
        (Tenant::of(&app.store, scope).await?, User::by_id(&app.store, job.user).await?);
    let user = user.filter(|user| user.disabled_at.is_none());
    let (Some(_), Some(tenant), Some(user)) =
        (Membership::of(&app.store, scope, job.user).await?, tenant, user)
    else {
        tracing::info!("member_not_found");
        return Ok(());
    };
    let now = app.store.clock().now();
    let mut keys = ApiKey::by_ids(&app.store, scope, &job.keys).await?;
    keys.retain(|key| is_still(job.notice, key));
    if keys.is_empty() {
        tracing::info!("api_keys_no_longer_concerned");
        return Ok(());
    }
    let shown: Vec<Value> = keys.iter().map(shown).collect();
    let mut values = json!({
        "name": user.name,
        "tenant": tenant.name,
        "keys": shown,
        "link": app.settings.public_url,
    });
    let template = match job.notice {
        Notice::Suspended => &API_KEYS_SUSPENDED,
        Notice::Leaked => &API_KEYS_LEAKED,
        Notice::Expiring(at) => {
            let at = DateTime::from_millis(at);
            let hours = between(now, at).as_secs() / 3600;
            // A warning a week before may be sent some minutes late.
            values["days"] = json!(hours.div_ceil(HOURS_PER_DAY).max(1));
            values["until"] = json!(rfc3339(at));
            &API_KEY_EXPIRING
        }
    };
    app.send(&running, &user.email, &user.name, template, &values).await
}

/// Whether what a notice says is still true of a key.
fn is_still(notice: Notice, key: &ApiKey) -> bool {
    match notice {
        Notice::Suspended => key.suspended_at.is_some() && key.revoked_at.is_none(),
        Notice::Leaked => true,
        Notice::Expiring(at) => {
            key.revoked_at.is_none() && key.expires_at == Some(DateTime::from_millis(at))
        }
    }
}

fn shown(key: &ApiKey) -> Value {
    let (prefix, last_four) = key
        .current()
        .map_or(("", ""), |secret| (secret.prefix.as_str(), secret.last_four.as_str()));
    json!({ "name": key.name, "shown": format!("{prefix}…{last_four}") })
}

/// Stages the warnings that are due.
pub(crate) async fn warn_expiring(_: WarnExpiring, running: Running<App>) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let mut warned = 0;
    for some in ApiKey::to_warn(&app.store, WARNED_MAX).await?.chunks(WARNED_TOGETHER) {
        warned += app.jobs.commit(&running.origin(), &WarnSome(some)).await?;
    }
    Ok(running.result(&warned)?)
}

/// Ends keys that somebody found.
pub(crate) async fn end_leaked(
    job: EndLeakedApiKeys,
    running: Running<App>,
) -> Result<(), JobError> {
    let end = EndLeaked { hashes: job.hashes };
    let ended = running.app.jobs.commit(&running.origin(), &end).await?;
    metrics::API_KEYS_LEAKED.inc_by(u64::try_from(ended).unwrap_or_default());
    if ended > 0 {
        tracing::info!(ended, "leaked_api_keys_revoked");
    }
    Ok(running.result(&ended)?)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test stands in for the job engine")]
mod tests {
    use std::time::Duration;

    use common::{
        clock::{Clock, later},
        crypto::PlainApiKey,
        db::{PlatformScope, TenantScope},
        origin::Origin,
    };
    use domain::tenancy::{
        actor::Actor,
        api_keys::{
            AdoptApiKey, CreateApiKey, NewApiKey, ReportLeaked, RevokeApiKey, Scope, UpdateApiKey,
        },
    };
    use jobs::testing;
    use mongodb::bson::doc;

    use super::*;
    use crate::testing::DemoWorld;

    const DAY: Duration = Duration::from_hours(24);

    fn actor(world: &DemoWorld) -> Actor {
        Actor::on_behalf_of(TenantScope::of_job(world.tenant), world.user.id.into())
    }

    fn new(name: &str, expires_at: Option<DateTime>) -> NewApiKey {
        let scope: Scope = "users:read".parse().unwrap();
        NewApiKey {
            name: name.parse().unwrap(),
            scopes: [scope].into_iter().collect(),
            expires_at,
            rate_limit: None,
            ip_allowlist: std::iter::empty().collect(),
            require_signature: false,
        }
    }

    async fn make(
        world: &DemoWorld,
        name: &str,
        expires_at: Option<DateTime>,
    ) -> (ApiKey, PlainApiKey) {
        let (actor, new) = (actor(world), new(name, expires_at));
        let create = CreateApiKey { key: &world.key, actor, new, max: 100 };
        let (key, plain) = world.jobs.commit(&Origin::system(), &create).await.unwrap();
        (key, plain.key)
    }

    fn subjects(world: &DemoWorld) -> Vec<String> {
        let mails = world.env.mail().messages().into_iter();
        mails.map(|mail| mail.subject).collect()
    }

    /// Runs the sweep, and returns the keys of the notices that it stages.
    async fn swept(world: &DemoWorld) -> Vec<SendApiKeyNotice> {
        let before = testing::staged::<SendApiKeyNotice>(&world.store).await.unwrap().len();
        world.worker.run(None, &WarnExpiring {}).await.unwrap();
        let staged = testing::staged::<SendApiKeyNotice>(&world.store).await.unwrap();
        staged.into_iter().skip(before).map(|row| row.job).collect()
    }

    #[tokio::test]
    async fn owners_are_warned_a_week_and_a_day_before_a_key_expires() {
        let clock = Clock::manual(DateTime::now());
        let world = DemoWorld::new(clock.clone()).await;
        let (key, _) = make(&world, "Month", Some(later(clock.now(), DAY * 30))).await;
        let (short, _) = make(&world, "Half a day", Some(later(clock.now(), DAY / 2))).await;
        let (gone, _) = make(&world, "Gone", Some(later(clock.now(), DAY * 30))).await;
        make(&world, "Forever", None).await;
        let revoke = RevokeApiKey { actor: actor(&world), id: gone.id };
        world.jobs.commit(&Origin::system(), &revoke).await.unwrap();
        assert_eq!(swept(&world).await, [], "nobody is told what they have just chosen");
        clock.advance(Duration::from_hours(23 * 24 - 1));
        assert_eq!(swept(&world).await, []);
        clock.advance(Duration::from_hours(1));
        let staged = swept(&world).await;
        let notice = Notice::Expiring(key.expires_at.unwrap().timestamp_millis());
        let expected = SendApiKeyNotice { user: world.user.id, keys: vec![key.id], notice };
        assert_eq!(
            staged,
            std::slice::from_ref(&expected),
            "the owner is also its sponsor: one mail"
        );
        assert_eq!(swept(&world).await, [], "once");
        world.worker.run(Some(world.tenant), &expected).await.unwrap();
        assert_eq!(subjects(&world), ["An API key of Demo expires in 7 days"]);

        // The expiry changes, and so do the warnings.
        let longer = new("Month", Some(later(key.expires_at.unwrap(), DAY * 2)));
        let (actor, id, unchanged) = (actor(&world), key.id, &|_: &ApiKey| true);
        let update = UpdateApiKey { key: &world.key, actor, id, new: longer, unchanged };
        world.jobs.commit(&Origin::system(), &update).await.unwrap();
        world.worker.run(Some(world.tenant), &expected).await.unwrap();
        assert_eq!(subjects(&world).len(), 1, "the old warning is no longer true");
        clock.advance(DAY * 2);
        assert_eq!(swept(&world).await.len(), 1, "7 days before");
        clock.advance(DAY * 6);
        assert_eq!(swept(&world).await.len(), 1, "1 day before");
        clock.advance(DAY);
        assert_eq!(swept(&world).await, []);
        assert!(short.expires_at.unwrap() < clock.now());
    }

    /// A worker that was away does not warn of what has happened already.
    #[tokio::test]
    async fn expired_and_suspended_keys_cause_no_warning() {
        let clock = Clock::manual(DateTime::now());
        let world = DemoWorld::new(clock.clone()).await;
        make(&world, "Expired", Some(later(clock.now(), DAY * 10))).await;
        let (suspended, _) = make(&world, "Suspended", Some(later(clock.now(), DAY * 20))).await;
        let rows = world.store.records::<ApiKey>(PlatformScope);
        let update = doc! { "$set": { "suspended_at": clock.now() } };
        rows.update(doc! { "_id": suspended.id }, update).await.unwrap();
        clock.advance(DAY * 14);
        assert_eq!(swept(&world).await, []);
    }

    #[tokio::test]
    async fn outdated_notices_of_suspension_are_not_sent() {
        let world = DemoWorld::new(Clock::system()).await;
        let (key, _) = make(&world, "Backup", None).await;
        let keys = vec![key.id];
        let job = SendApiKeyNotice { user: world.user.id, keys, notice: Notice::Suspended };
        world.worker.run(Some(world.tenant), &job).await.unwrap();
        assert_eq!(subjects(&world), [""; 0], "it is not suspended");
        let rows = world.store.records::<ApiKey>(PlatformScope);
        let update = doc! { "$set": { "suspended_at": DateTime::now() } };
        rows.update(doc! { "_id": key.id }, update).await.unwrap();
        world.worker.run(Some(world.tenant), &job).await.unwrap();
        assert_eq!(subjects(&world), ["API keys of Demo were suspended"]);
        let adopt = AdoptApiKey { actor: actor(&world), id: key.id };
        world.jobs.commit(&Origin::system(), &adopt).await.unwrap();
        world.worker.run(Some(world.tenant), &job).await.unwrap();
        assert_eq!(subjects(&world).len(), 1, "it was adopted");
        // Nobody else's tenant.
        assert!(world.worker.run(None, &job).await.is_err());
    }

    #[tokio::test]
    async fn leaked_keys_end_and_the_owners_are_told_once() {
        let world = DemoWorld::new(Clock::system()).await;
        let (one, plain_one) = make(&world, "One", None).await;
        let (two, plain_two) = make(&world, "Two", None).await;
        let (other, _) = make(&world, "Other", None).await;
        let unknown = PlainApiKey::generate(&Clock::system());
        let found = [plain_one.clone(), unknown, plain_two];
        let report = ReportLeaked::new(&found);
        world.jobs.commit(&Origin::system(), &report).await.unwrap();
        let staged = testing::staged::<EndLeakedApiKeys>(&world.store).await.unwrap();
        for _ in 0..2 {
            // Running it again ends and tells nothing.
            world.worker.run(None, &staged[0].job).await.unwrap();
        }
        let scope = TenantScope::of_job(world.tenant);
        for (id, is_left) in [(one.id, false), (two.id, false), (other.id, true)] {
            assert_eq!(ApiKey::of(&world.store, scope, id).await.unwrap().is_some(), is_left);
        }
        let notices = testing::staged::<SendApiKeyNotice>(&world.store).await.unwrap();
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert_eq!(notices[0].job.keys, [one.id, two.id]);
        world.worker.run(Some(world.tenant), &notices[0].job).await.unwrap();
        let mail = &world.env.mail().messages()[0];
        assert_eq!(mail.subject, "API keys of Demo were revoked because they leaked");
        let shown = format!("One ({}…{})", plain_one.prefix(), plain_one.last_four());
        assert!(mail.text.contains(&shown), "{}", mail.text);
        assert!(!mail.text.contains(plain_one.expose()));
    }
}
