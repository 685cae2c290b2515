//! Job handlers, one module per noun, in folders by area.

pub(crate) mod identity;
pub(crate) mod platform;
pub(crate) mod tenancy;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test stands in for the job engine")]
mod tests {
    use std::time::Duration;

    use common::{
        clock::Clock,
        config::MailBudget,
        db::{Change, DbError, PlatformScope, TenantScope, Txn},
        id::TenantId,
        origin::Origin,
        sealed_email::{AddressDigest, SealedEmail},
    };
    use domain::{
        people::users::User,
        tenancy::{
            actor::Actor,
            invitation_lists::{InvitationList, Line, ListLimits},
            invitations::{
                CompleteInvitationList, Conditions, Invitation, Invite, InviteChunk, InviteList,
                SendInvitation, SendInvitationReminder, Terms,
            },
            invite_links::{CreateInviteLink, InviteByLink, InviteLink},
            memberships::Membership,
            ownership::{OfferOwnership, OwnershipTransfer, SendOwnershipOffer},
            roles::Role,
            tenant_domains::{AddDomain, CheckDomain, TenantDomain},
            tenants::Tenant,
        },
    };
    use jobs::{Job, JobError, outbox::OutboxRow};
    use mongodb::bson::doc;

    use crate::testing::DemoWorld;

    const DAY: Duration = Duration::from_hours(24);
    const BUDGET: MailBudget = MailBudget { new_tenant: 10, per_day: 0, per_accepted: 0, max: 10 };

    /// The demo account's tenant, with an invitation, a list of people to invite, and an offer of
    /// ownership.
    struct World {
        demo: DemoWorld,
        invitation: Invitation,
        list: InvitationList,
        invite_link: InviteLink,
        offer: OwnershipTransfer,
        domain: TenantDomain,
    }

    impl World {
        async fn new() -> Self {
            let demo = DemoWorld::new(Clock::system()).await;
            let (key, owner, tenant) = (&demo.key, &demo.user, demo.tenant);
            let actor = Actor::on_behalf_of(TenantScope::of_job(tenant), owner.id.into());
            let terms = Terms { ttl: DAY, max: 10, budget: BUDGET };
            let conditions = Conditions { terms, reminder: DAY };
            let (email, role) = ("invited@example.com".parse().unwrap(), Role::Viewer.into());
            let invitation = demo
                .jobs
                .commit(&Origin::system(), &Invite { key, actor, email, role, conditions })
                .await
                .unwrap();
            let line = Line::new("listed@example.com", "viewer");
            let limits = ListLimits { open_max: 10, lines_max: 10 };
            let invite = InviteList { actor, lines: vec![line], limits, budget: BUDGET };
            let list = demo.jobs.commit(&Origin::system(), &invite).await.unwrap();
            let domains = ["example.com".parse().unwrap()].into_iter().collect();
            let create =
                CreateInviteLink { actor, role: Role::Viewer.into(), domains, ttl: DAY, max: 10 };
            let invite_link = demo.jobs.commit(&Origin::system(), &create).await.unwrap().link;
            let domain = AddDomain { actor, domain: "corp.example".parse().unwrap(), max: 10 };
            let domain = demo.jobs.commit(&Origin::system(), &domain).await.unwrap();
            let to = demo.jobs.commit(&Origin::system(), &Join(owner, actor.scope)).await.unwrap();
            let offer = demo
                .jobs
                .commit(
                    &Origin::system(),
                    &OfferOwnership {
                        scope: actor.scope,
                        user: owner.id,
                        to: to.user_id,
                        ttl: DAY,
                    },
                )
                .await
                .unwrap();
            Self { demo, invitation, list, invite_link, offer, domain }
        }

        /// Runs each kind of job about the tenant's rows in the name of `tenant`.
        async fn run(&self, tenant: Option<TenantId>) -> [Result<(), JobError>; 6] {
            let (invitation, link, list) = (self.invitation.id, self.invitation.link, self.list.id);
            let follower = "follower@example.com".parse().unwrap();
            let (address, digest) = (
                SealedEmail::seal(&self.demo.key, InviteByLink::KIND, &follower).unwrap(),
                AddressDigest::of(&self.demo.key, &follower),
            );
            [
                self.run_one(tenant, SendInvitation { invitation, link }).await,
                self.run_one(tenant, SendInvitationReminder { invitation, link }).await,
                self.run_one(tenant, SendOwnershipOffer { offer: self.offer.id }).await,
                self.run_one(tenant, InviteChunk { list, from: 0 }).await,
                self.run_one(
                    tenant,
                    InviteByLink { link: self.invite_link.id, address, digest, cooldown_ms: 0 },
                )
                .await,
                self.run_one(tenant, CompleteInvitationList { list }).await,
            ]
        }

        async fn run_one<J: Job>(&self, tenant: Option<TenantId>, job: J) -> Result<(), JobError> {
            self.demo.worker.run(tenant, &job).await
        }

        /// Recipients of mails, number of invitations and of staged jobs, and whether the list is
        /// complete.
        async fn seen(&self) -> (Vec<String>, u64, u64, bool) {
            let mut mailed: Vec<String> =
                self.demo.env.mail().messages().into_iter().flat_map(|mail| mail.to).collect();
            mailed.sort();
            let invitations =
                self.demo.store.records::<Invitation>(PlatformScope).count(doc! {}).await.unwrap();
            let staged =
                self.demo.store.records::<OutboxRow>(PlatformScope).count(doc! {}).await.unwrap();
            let list = InvitationList::of(
                &self.demo.store,
                TenantScope::of_job(self.demo.tenant),
                self.list.id,
            )
            .await
            .unwrap()
            .unwrap();
            (mailed, invitations, staged, list.completed_at.is_some())
        }
    }

    /// A new person joins a tenant.
    struct Join<'a>(&'a User, TenantScope);

    impl Change for Join<'_> {
        type Output = Membership;
        type Error = DbError;

        async fn apply(&self, txn: &mut Txn) -> Result<Membership, DbError> {
            let (id, email) = (txn.clock().id(), "member@example.com");
            User {
                id,
                email: email.parse().unwrap(),
                email_norm: email.to_owned(),
                ..self.0.clone()
            }
            .insert(txn)
            .await?;
            Membership::create(txn, self.1, id, Role::Member).await
        }
    }

    struct Found;

    impl Change for Found {
        type Output = Tenant;
        type Error = DbError;

        async fn apply(&self, txn: &mut Txn) -> Result<Tenant, DbError> {
            Tenant::create(txn, &"Another".parse().unwrap(), None).await
        }
    }

    /// A job finds only rows of its own tenant.
    #[tokio::test]
    async fn a_job_finds_no_rows_of_another_tenant() {
        let world = World::new().await;
        let other = world.demo.jobs.commit(&Origin::system(), &Found).await.unwrap();
        let before = world.seen().await;
        let ended = world.run(Some(other.id)).await;
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
        let ended = world.run(None).await;
        assert!(ended.iter().all(|ended| matches!(ended, Err(JobError::Fail(_)))), "{ended:?}");
        let (store, check) = (&world.demo.store, CheckDomain { domain: world.domain.id });
        assert!(world.run_one(Some(other.id), check).await.is_ok());
        let own = TenantDomain::of(store, TenantScope::of_job(world.demo.tenant), world.domain.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(own.checked_at, None);
        assert_eq!(world.seen().await, before);
        assert_eq!((before.0.len(), before.1, before.3), (0, 1, false));

        let ended = world.run(Some(world.demo.tenant)).await;
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
        let (mailed, invitations, _, is_complete) = world.seen().await;
        assert_eq!(mailed, ["invited@example.com", "invited@example.com", "member@example.com"]);
        assert_eq!((invitations, is_complete), (3, true));
    }
}
