//! Invite links: one link by which the people of some domains have themselves invited to a tenant.
//!
//! Not to be mixed up with the link of an invitation, which is one person's. Whoever has an invite
//! link gives their address, and if it is of one of the link's domains they are mailed an ordinary
//! invitation ([`crate::tenancy::invitations`]): so nobody joins who has not shown that the mailbox is
//! theirs, and what holds for invitations holds for theirs. As an invitation is, a link is as good
//! as the word of whoever made it.

use std::time::Duration;

use common::{
    clock::{later, millis_of},
    crypto::{LinkToken, MasterKey, SealError},
    db::{
        Change, Data, DbError, OfTenant, PlatformScope, Record, Store, TenantScope, Txn,
        schema::{self, Field, Index},
    },
    email::Email,
    id::{InviteLinkId, TenantId},
    origin::Principal,
    sealed_email::SealedEmail,
};
use jobs::{Job, Queue, Unique, Window, stage};
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::Action,
    identity::{actor::Actor, registrations::AddressDigest},
    tenancy::{
        invitations::{Answered, Conditions, InviteError, invite_on_request, vouched},
        roles::{Grant, Permission, Role, RoleRef},
        tenant_security::EmailDomains,
        tenants::Tenant,
    },
};

/// The most links that are listed; more than a tenant may be allowed to have.
const LISTED_MAX: i64 = 1_000;
/// The most domains that a link is for.
pub const LINK_DOMAINS_MAX: usize = 20;

/// A link by which people have themselves invited.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InviteLink {
    /// Its id, which its token is made of.
    #[serde(rename = "_id")]
    pub id: InviteLinkId,
    /// Into which tenant.
    pub tenant_id: TenantId,
    /// As what.
    pub role: RoleRef,
    /// Whom: at least one domain.
    pub domains: EmailDomains,
    /// Whose word it is.
    pub created_by: Principal,
    /// When it was made.
    pub created_at: DateTime,
    /// Void from then on.
    pub expires_at: DateTime,
}

impl Record for InviteLink {
    const COLLECTION: &'static str = "invite_links";
    const DATA: Data = Data::of_tenant();
    const INDEXES: &'static [Index] = &[
        Index::on("invite_links_tenant", &[("tenant_id", 1), ("_id", 1)]),
        Index::expiring("invite_links_ttl", &[("expires_at", 1)], Duration::ZERO),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("role", schema::STRING),
        ("domains", schema::ARRAY),
        ("created_by", schema::STRING),
        ("created_at", schema::DATE),
        ("expires_at", schema::DATE),
    ];
}
impl OfTenant for InviteLink {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

impl InviteLink {
    /// Every link of the scope's tenant that is good, in the order in which they were made.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn all(store: &Store, scope: TenantScope) -> Result<Vec<Self>, DbError> {
        store
            .records::<Self>(scope)
            .list(good(store.clock().now()), doc! { "_id": 1 }, LISTED_MAX)
            .await
    }

    /// The link that `token` is of, if it is good. Platform-wide: the bearer belongs to no tenant
    /// yet, and is shown nothing but what they may be invited to.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn by_token(
        store: &Store,
        key: &MasterKey,
        token: &str,
    ) -> Result<Option<Self>, DbError> {
        let Some(id) = LinkToken::redeem(key, token) else { return Ok(None) };
        store.records::<Self>(PlatformScope).find(good_one(id, store.clock().now())).await
    }

    /// The link of the scope's tenant with this id, if it is good.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn within(
        txn: &mut Txn,
        scope: TenantScope,
        id: InviteLinkId,
    ) -> Result<Option<Self>, DbError> {
        let filter = good_one(id, txn.clock().now());
        txn.records::<Self>(scope).find(filter).await
    }

    /// Whoever made it, whose word it is.
    pub fn actor(&self) -> Actor {
        Actor { scope: TenantScope::of_row(self), principal: self.created_by }
    }

    /// What it gives, if whoever made it may do so now.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn grant(&self, store: &Store) -> Result<Option<Grant>, DbError> {
        vouched(store, self.actor(), self.role).await
    }

    /// Whether an address is of one of its domains.
    pub fn is_for(&self, email: &Email) -> bool {
        self.domains.name(email)
    }

    /// Its token. Made of its id, so that it can be shown again; nothing that is stored tells it.
    pub fn token(&self, key: &MasterKey) -> LinkToken {
        LinkToken::issue(key, self.id)
    }

    /// Whether one that is good is to this role.
    pub(crate) async fn names_role(
        txn: &mut Txn,
        scope: TenantScope,
        role: RoleRef,
    ) -> Result<bool, DbError> {
        let mut filter = good(txn.clock().now());
        filter.insert("role", role);
        Ok(txn.records::<Self>(scope).find(filter).await?.is_some())
    }
}

/// Those that are good at `now`.
fn good(now: DateTime) -> Document {
    doc! { "expires_at": { "$gt": now } }
}

fn good_one(id: InviteLinkId, now: DateTime) -> Document {
    let mut filter = good(now);
    filter.insert("_id", id);
    filter
}

/// Why a link was not made or deleted.
#[derive(Debug, thiserror::Error)]
pub enum InviteLinkError {
    /// There is no such link, or it has expired.
    #[error("there is no such invite link")]
    NotFound,
    /// The tenant has no such role.
    #[error("there is no such role")]
    NoSuchRole,
    /// The role may do more than the one who asks.
    #[error("the role may do more than the one who asks")]
    TooHigh,
    /// Whoever has the link would own the tenant.
    #[error("owners are invited one by one")]
    OwnerRole,
    /// The tenant has as many as it may.
    #[error("the tenant has as many invite links as it may")]
    TooMany,
    /// The tenant does not invite addresses of one of the domains.
    #[error("the tenant does not invite addresses of one of the domains")]
    DomainNotAllowed,
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Makes a link.
#[derive(Debug)]
pub struct CreateInviteLink {
    /// Who asks.
    pub actor: Actor,
    /// As what it invites.
    pub role: RoleRef,
    /// Whom it invites: at least one domain.
    pub domains: EmailDomains,
    /// How long it is good for.
    pub ttl: Duration,
    /// The most that the tenant may have.
    pub max: u64,
}

impl Change for CreateInviteLink {
    type Output = InviteLink;
    type Error = InviteLinkError;

    async fn apply(&self, txn: &mut Txn) -> Result<InviteLink, InviteLinkError> {
        let (scope, now) = (self.actor.scope, txn.clock().now());
        let tenant = Tenant::hold(txn, scope).await?;
        if self.role == Role::Owner.into() {
            return Err(InviteLinkError::OwnerRole);
        }
        let given =
            Grant::within(txn, scope, self.role).await?.ok_or(InviteLinkError::NoSuchRole)?;
        let grant = self.actor.grant(txn).await?;
        if !grant.may(Permission::UsersInvite) || !grant.reaches(&given) {
            return Err(InviteLinkError::TooHigh);
        }
        if !tenant.is_none_or(|tenant| tenant.security.allowed_email_domains.hold(&self.domains)) {
            return Err(InviteLinkError::DomainNotAllowed);
        }
        if txn.records::<InviteLink>(scope).count(good(now)).await? >= self.max {
            return Err(InviteLinkError::TooMany);
        }
        let link = InviteLink {
            id: txn.clock().id(),
            tenant_id: scope.tenant_id(),
            role: self.role,
            domains: self.domains.clone(),
            created_by: self.actor.principal,
            created_at: now,
            expires_at: later(now, self.ttl),
        };
        txn.records::<InviteLink>(scope).insert(&link).await?;
        self.actor.record(txn, Action::InviteLinkCreated, link.id).await?;
        Ok(link)
    }
}

/// Voids a link. Invitations that it led to stay.
#[derive(Debug, Clone, Copy)]
pub struct DeleteInviteLink {
    /// Who asks.
    pub actor: Actor,
    /// Which.
    pub link: InviteLinkId,
}

impl Change for DeleteInviteLink {
    type Output = ();
    type Error = InviteLinkError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), InviteLinkError> {
        let scope = self.actor.scope;
        let filter = good_one(self.link, txn.clock().now());
        let link = txn
            .records::<InviteLink>(scope)
            .take(filter)
            .await?
            .ok_or(InviteLinkError::NotFound)?;
        // As with an invitation: one takes what one may give, and a role that is gone gives
        // nothing.
        let (grant, given) =
            (self.actor.grant(txn).await?, Grant::within(txn, scope, link.role).await?);
        if given.is_some_and(|given| !grant.reaches(&given)) {
            return Err(InviteLinkError::TooHigh);
        }
        self.actor.record(txn, Action::InviteLinkDeleted, self.link).await?;
        Ok(())
    }
}

/// Invites whoever followed an invite link. Staged whether or not they are a member or invited
/// already, so that following one with another's address tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteByLink {
    /// The link.
    pub link: InviteLinkId,
    /// The address they gave.
    pub address: SealedEmail,
    /// Its pseudonym: for a while after it was asked for, the address is not mailed again by the
    /// tenant's links.
    pub digest: AddressDigest,
    /// For how long, in milliseconds.
    pub cooldown_ms: u64,
}

impl Job for InviteByLink {
    const KIND: &'static str = "invite_link.invite";
    const QUEUE: Queue = Queue::Email;

    fn unique(&self) -> Option<Unique> {
        Some(Unique {
            key: self.digest.as_str().to_owned(),
            window: Window::For(Duration::from_millis(self.cooldown_ms)),
        })
    }
}

/// Somebody follows an invite link.
pub struct FollowInviteLink {
    tenant: TenantId,
    job: InviteByLink,
}

impl FollowInviteLink {
    /// By `link`, with this address; asked for again within `cooldown` it is not mailed again.
    ///
    /// # Errors
    /// When the cipher refuses, which a healthy system does not do.
    pub fn new(
        key: &MasterKey,
        link: &InviteLink,
        email: &Email,
        cooldown: Duration,
    ) -> Result<Self, SealError> {
        let (address, digest) = (SealedEmail::seal(key, email)?, AddressDigest::of(key, email));
        let cooldown_ms = u64::try_from(millis_of(cooldown)).unwrap_or_default();
        Ok(Self {
            tenant: link.tenant_id,
            job: InviteByLink { link: link.id, address, digest, cooldown_ms },
        })
    }
}

impl Change for FollowInviteLink {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, Some(self.tenant), &self.job).await.map(drop)
    }
}

/// Invites somebody who followed an invite link, on the word of whoever made it.
pub struct InviteFollower<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// The tenant whose link it is.
    pub scope: TenantScope,
    /// Which.
    pub link: InviteLinkId,
    /// The address they gave.
    pub email: &'a Email,
    /// How.
    pub conditions: Conditions,
}

impl Change for InviteFollower<'_> {
    /// None where the link was deleted or has expired.
    type Output = Option<Answered>;
    type Error = InviteError;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<Answered>, InviteError> {
        let Some(link) = InviteLink::within(txn, self.scope, self.link).await? else {
            return Ok(None);
        };
        if !link.is_for(self.email) {
            return Err(InviteError::DomainNotAllowed);
        }
        invite_on_request(txn, self.key, link.actor(), self.email, link.role, self.conditions)
            .await
            .map(Some)
    }
}
