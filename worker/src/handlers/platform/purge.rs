//! Removal of expired rows.

use std::{collections::BTreeMap, sync::Arc};

use common::{clock::millis_of, telemetry::metrics};
use domain::platform::purge::{Leftover, Purge};
use jobs::{JobError, Running};
use mongodb::bson::DateTime;

use crate::app::App;

/// Rows removed per batch: a few milliseconds of database time.
const BATCH: u32 = 500;
/// Rows of one kind removed by one job; the rest is left to the next job, so that no kind starves
/// the others.
const ROWS_MAX: u64 = 100_000;

/// Removes expired rows, kind by kind and in batches. If interrupted, the next job continues.
pub(crate) async fn purge(_: Purge, running: Running<App>) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let before = DateTime::from_millis(
        app.store
            .clock()
            .now()
            .timestamp_millis()
            .saturating_sub(millis_of(app.maintenance.purge_after)),
    );
    let mut removed = BTreeMap::new();
    for kind in Leftover::ALL {
        let mut rows = 0;
        loop {
            let batch = kind.purge(&app.store, before, BATCH).await?;
            metrics::MAINTENANCE_PURGED.with_label_values(&[kind.name()]).inc_by(batch);
            rows += batch;
            running.progress(removed.values().sum::<u64>() + rows, 0, kind.name());
            if batch < BATCH.into() || rows >= ROWS_MAX {
                break;
            }
        }
        if rows > 0 {
            tracing::info!(kind = kind.name(), rows, "rows_purged");
        }
        removed.insert(kind.name(), rows);
    }
    Ok(running.result(&removed)?)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test stands in for the job engine")]
mod tests {
    use std::time::Duration;

    use common::{
        clock::{Clock, later},
        config::MailBudget,
        crypto::LinkToken,
        db::{Change, DbError, PlatformScope, Record, TenantScope, Txn},
        id::SessionId,
        origin::Origin,
        sealed_email::AddressDigest,
    };
    use domain::{
        identity::{
            email_changes::{AskEmailChange, EmailChange},
            password_resets::{PasswordReset, Prepare},
            registrations::Registration,
        },
        people::sessions::{Device, Lifetime, Session},
        tenancy::{
            actor::Actor,
            invitations::{Conditions, Invitation, Invite, Terms},
            roles::Role,
        },
    };
    use mongodb::bson::doc;

    use super::*;
    use crate::testing::DemoWorld;

    const DAY: Duration = Duration::from_hours(24);

    struct World(DemoWorld);

    impl World {
        /// With a manual clock.
        async fn new() -> Self {
            Self(DemoWorld::new(Clock::manual(DateTime::now())).await)
        }

        /// Inserts one row of each kind, valid for a day.
        async fn fill(&self) {
            self.register(1).await;
            let job = self.0.store.clock().id();
            self.0
                .jobs
                .commit(
                    &Origin::system(),
                    &Prepare {
                        key: &self.0.key,
                        user: self.0.user.id,
                        job,
                        ttl: DAY,
                        cooldown: DAY,
                    },
                )
                .await
                .unwrap();
            let session = self.session(DAY).await;
            let (user, tenant, new) =
                (self.0.user.id, self.0.tenant, "new@example.com".parse().unwrap());
            let budget = MailBudget { new_tenant: 10, per_day: 0, per_accepted: 0, max: 10 };
            let ask = AskEmailChange {
                key: &self.0.key,
                user,
                session,
                scope: Some(TenantScope::of_job(tenant)),
                new,
                ttl: DAY,
                cooldown: DAY,
                budget,
            };
            self.0.jobs.commit(&Origin::system(), &ask).await.unwrap();
            let actor = Actor::on_behalf_of(TenantScope::of_job(tenant), user.into());
            let terms = Terms { ttl: DAY, max: 10, budget };
            let conditions = Conditions { terms, reminder: DAY };
            let (email, role) = ("invited@example.com".parse().unwrap(), Role::Viewer.into());
            self.0
                .jobs
                .commit(
                    &Origin::system(),
                    &Invite { key: &self.0.key, actor, email, role, conditions },
                )
                .await
                .unwrap();
        }

        async fn session(&self, ttl: Duration) -> SessionId {
            self.0.jobs.commit(&Origin::system(), &SignIn(&self.0, ttl)).await.unwrap().id
        }

        /// Inserts this many registrations, valid for a day.
        async fn register(&self, many: usize) {
            let (now, clock) = (self.0.store.clock().now(), self.0.store.clock());
            let rows: Vec<Registration> = (0..many)
                .map(|_| {
                    let id = clock.id();
                    Registration {
                        id,
                        email: "ada@example.com".parse().unwrap(),
                        email_norm: "ada@example.com".to_owned(),
                        email_digest: AddressDigest::of(
                            &self.0.key,
                            &"ada@example.com".parse().unwrap(),
                        ),
                        name: "Ada".parse().unwrap(),
                        tenant_name: "Engines".parse().unwrap(),
                        password_hash: self.0.user.password_hash.clone(),
                        token_hash: LinkToken::issue(&self.0.key, id).hash(),
                        job_id: None,
                        mailed_at: None,
                        mailed_by: None,
                        claimed_at: None,
                        claimed_by: None,
                        created_at: now,
                        expires_at: later(now, DAY),
                    }
                })
                .collect();
            self.0
                .store
                .records::<Registration>(PlatformScope)
                .insert_missing(&rows)
                .await
                .unwrap();
        }

        async fn purge(&self) {
            self.0.worker.run(None, &Purge {}).await.unwrap();
        }

        async fn count<T: Record>(&self) -> u64 {
            self.0.store.records::<T>(PlatformScope).count(doc! {}).await.unwrap()
        }

        /// Rows of each kind, in the order of [`Leftover::ALL`].
        async fn counts(&self) -> [u64; 5] {
            [
                self.count::<Registration>().await,
                self.count::<PasswordReset>().await,
                self.count::<EmailChange>().await,
                self.count::<Invitation>().await,
                self.count::<Session>().await,
            ]
        }
    }

    struct SignIn<'w>(&'w DemoWorld, Duration);

    impl Change for SignIn<'_> {
        type Output = Session;
        type Error = DbError;

        async fn apply(&self, txn: &mut Txn) -> Result<Session, DbError> {
            let lifetime = Lifetime { absolute: self.1, idle: self.1 };
            let (user, tenant) = (self.0.user.id, Some(self.0.tenant));
            Session::create(txn, user, tenant, &Device::default(), lifetime, false).await
        }
    }

    struct SignOut(SessionId);

    impl Change for SignOut {
        type Output = bool;
        type Error = DbError;

        async fn apply(&self, txn: &mut Txn) -> Result<bool, DbError> {
            Session::revoke(txn, self.0).await
        }
    }

    #[tokio::test]
    async fn only_rows_that_expired_long_ago_are_removed() {
        let world = World::new().await;
        world.fill().await;
        world.purge().await;
        assert_eq!(world.counts().await, [1; 5], "nothing has expired yet");
        world.0.store.clock().advance(DAY + Duration::from_hours(23));
        world.purge().await;
        assert_eq!(world.counts().await, [1; 5], "expired, but recently");
        world.0.store.clock().advance(Duration::from_hours(2));
        world.register(1).await;
        let before: Vec<u64> = Leftover::ALL.iter().map(|kind| purged(*kind)).collect();
        world.purge().await;
        assert_eq!(world.counts().await, [1, 0, 0, 0, 0]);
        let after = Leftover::ALL.iter().map(|kind| purged(*kind));
        assert_eq!(
            after.zip(before).map(|(after, before)| after - before).collect::<Vec<_>>(),
            [1; 5]
        );
    }

    fn purged(kind: Leftover) -> u64 {
        metrics::MAINTENANCE_PURGED.with_label_values(&[kind.name()]).get()
    }

    #[tokio::test]
    async fn an_ended_session_is_removed_long_before_it_would_expire() {
        let world = World::new().await;
        let (ended, live) = (world.session(30 * DAY).await, world.session(30 * DAY).await);
        world.0.jobs.commit(&Origin::system(), &SignOut(ended)).await.unwrap();
        world.purge().await;
        assert!(
            Session::by_id(&world.0.store, ended).await.unwrap().is_some(),
            "a mail about it may be pending"
        );
        world.0.store.clock().advance(DAY + Duration::from_mins(1));
        world.purge().await;
        assert!(Session::by_id(&world.0.store, ended).await.unwrap().is_none());
        assert!(Session::live(&world.0.store, live).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_large_backlog_is_removed_in_bounded_batches() {
        let world = World::new().await;
        world.register(2 * BATCH as usize + 1).await;
        world.0.store.clock().advance(3 * DAY);
        world.register(1).await;
        let now = world.0.store.clock().now();
        assert_eq!(Leftover::Registrations.purge(&world.0.store, now, 10).await.unwrap(), 10);
        assert_eq!(world.count::<Registration>().await, 2 * u64::from(BATCH) - 8);
        world.purge().await;
        assert_eq!(world.count::<Registration>().await, 1);
    }
}
