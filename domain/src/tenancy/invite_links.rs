//! Invite links, with which people of certain email domains request an invitation to a tenant.
//!
//! Not to be confused with the link of an invitation, which belongs to one person. The bearer of an
//! invite link enters their email address, and, if it is of one of the link's domains, receives an
//! ordinary invitation by mail ([`crate::tenancy::invitations`]): so nobody joins who has not
//! proven ownership of the mailbox, and the rules of invitations apply. Like an invitation, a link
//! depends on the member who created it.

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
    sealed_email::{AddressDigest, SealedEmail},
};
use jobs::{Job, Queue, Unique, Window, stage};
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::Action,
    queues,
    tenancy::{
        actor::Actor,
        invitations::{Answered, Conditions, InviteError, invite_on_request, vouched},
        roles::{Grant, OutOfReach, Permission, Role, RoleRef},
        tenant_security::EmailDomains,
        tenants::Tenant,
    },
};

/// Maximum number of links in a listing; more than a tenant may have.
const LISTED_MAX: i64 = 1_000;
/// Maximum number of domains of a link.
pub const LINK_DOMAINS_MAX: usize = 20;

/// A link with which people request an invitation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InviteLink {
    /// Its id, from which its token is derived.
    #[serde(rename = "_id")]
    pub id: InviteLinkId,
    /// The tenant to join.
    pub tenant_id: TenantId,
    /// The role that invited people will have.
    pub role: RoleRef,
    /// The email domains that it invites, at least one.
    pub domains: EmailDomains,
    /// The member who created it.
    pub created_by: Principal,
    /// When it was created.
    pub created_at: DateTime,
    /// When it expires.
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
    /// Every valid link of the scope's tenant, in the order of creation.
    pub async fn all(store: &Store, scope: TenantScope) -> Result<Vec<Self>, DbError> {
        store
            .records::<Self>(scope)
            .list(good(store.clock().now()), doc! { "_id": 1 }, LISTED_MAX)
            .await
    }

    /// The valid link with this `token`. Platform-wide, because the bearer belongs to no tenant
    /// yet; they are shown only what they may be invited to.
    pub async fn by_token(
        store: &Store,
        key: &MasterKey,
        token: &str,
    ) -> Result<Option<Self>, DbError> {
        let Some(id) = LinkToken::redeem(key, token) else { return Ok(None) };
        store.records::<Self>(PlatformScope).find(good_one(id, store.clock().now())).await
    }

    /// The valid link of the scope's tenant with this id.
    pub async fn within(
        txn: &mut Txn,
        scope: TenantScope,
        id: InviteLinkId,
    ) -> Result<Option<Self>, DbError> {
        let filter = good_one(id, txn.clock().now());
        txn.records::<Self>(scope).find(filter).await
    }

    /// The member who created it, on whose behalf it invites.
    pub fn actor(&self) -> Actor {
        Actor::on_behalf_of(TenantScope::of_row(self), self.created_by)
    }

    /// What it grants, if its creator may still grant it.
    pub async fn grant(&self, store: &Store) -> Result<Option<Grant>, DbError> {
        vouched(store, self.actor(), self.role).await
    }

    /// Whether an email address is of one of its domains.
    pub fn is_for(&self, email: &Email) -> bool {
        self.domains.name(email)
    }

    /// Its token, derived from its id, so that it can be shown again; nothing stored reveals it.
    pub fn token(&self, key: &MasterKey) -> LinkToken {
        LinkToken::issue(key, self.id)
    }

    /// Whether a valid link has this role.
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

/// Matches links that are valid at `now`.
fn good(now: DateTime) -> Document {
    doc! { "expires_at": { "$gt": now } }
}

fn good_one(id: InviteLinkId, now: DateTime) -> Document {
    let mut filter = good(now);
    filter.insert("_id", id);
    filter
}

/// Why a link was not created or deleted.
#[derive(Debug, thiserror::Error)]
pub enum InviteLinkError {
    /// The link does not exist or has expired.
    #[error("the invite link does not exist")]
    NotFound,
    /// The tenant has no such role.
    #[error("the role does not exist")]
    NoSuchRole,
    /// The role is out of the caller's reach.
    #[error(transparent)]
    Reach(#[from] OutOfReach),
    /// Every bearer of the link would own the tenant.
    #[error("owners can only be invited individually")]
    OwnerRole,
    /// The tenant has reached its limit of invite links.
    #[error("the tenant has reached its limit of invite links")]
    TooMany,
    /// The tenant does not invite email addresses of one of the domains.
    #[error("the tenant does not invite email addresses of one of the domains")]
    DomainNotAllowed,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Creates a link.
#[derive(Debug)]
pub struct CreateInviteLink {
    /// The caller.
    pub actor: Actor,
    /// The role that invited people will have.
    pub role: RoleRef,
    /// The email domains that it invites, at least one.
    pub domains: EmailDomains,
    /// Lifetime of the link.
    pub ttl: Duration,
    /// Maximum number of links per tenant.
    pub max: u64,
}

/// A link that was created.
#[derive(Debug)]
pub struct Created {
    pub link: InviteLink,
    /// Name of its role.
    pub role_name: String,
}

impl Change for CreateInviteLink {
    type Output = Created;
    type Error = InviteLinkError;

    async fn apply(&self, txn: &mut Txn) -> Result<Created, InviteLinkError> {
        let (scope, now) = (self.actor.scope, txn.clock().now());
        let tenant = Tenant::lock(txn, scope).await?;
        if self.role == Role::Owner.into() {
            return Err(InviteLinkError::OwnerRole);
        }
        let given =
            Grant::within(txn, scope, self.role).await?.ok_or(InviteLinkError::NoSuchRole)?;
        let authority = self.actor.authority(txn).await?;
        if !authority.grant.may(Permission::UsersInvite) {
            return Err(OutOfReach::TooHigh.into());
        }
        authority.may_give(&given)?;
        if !tenant.is_none_or(|tenant| tenant.security.allowed_email_domains.cover(&self.domains)) {
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
        Ok(Created { link, role_name: given.name })
    }
}

/// Deletes a link. Invitations that resulted from it stay.
#[derive(Debug, Clone, Copy)]
pub struct DeleteInviteLink {
    /// The caller.
    pub actor: Actor,
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
        // As with an invitation: the caller must be able to grant its role, and a deleted role
        // grants nothing.
        let (grant, given) =
            (self.actor.grant(txn).await?, Grant::within(txn, scope, link.role).await?);
        if given.is_some_and(|given| !grant.reaches(&given)) {
            return Err(OutOfReach::TooHigh.into());
        }
        self.actor.record(txn, Action::InviteLinkDeleted, self.link).await?;
        Ok(())
    }
}

/// Invites a person who followed an invite link. Staged whether or not they are a member or already
/// invited, so that following one with another person's email address reveals nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteByLink {
    pub link: InviteLinkId,
    /// The email address they entered.
    pub address: SealedEmail,
    /// Its pseudonym: within the cooldown, the email address is not mailed again by the tenant's
    /// links.
    pub digest: AddressDigest,
    /// The cooldown in milliseconds.
    pub cooldown_ms: u64,
}

impl Job for InviteByLink {
    const KIND: &'static str = "invite_link.invite";
    const QUEUE: Queue = queues::EMAIL;

    fn unique(&self) -> Option<Unique> {
        Some(Unique {
            key: self.digest.as_str().to_owned(),
            window: Window::For(Duration::from_millis(self.cooldown_ms)),
        })
    }
}

/// Follows an invite link.
pub struct FollowInviteLink {
    tenant: TenantId,
    job: InviteByLink,
}

impl FollowInviteLink {
    /// Follows `link` with this email address, which is mailed at most once within `cooldown`.
    pub fn new(
        key: &MasterKey,
        link: &InviteLink,
        email: &Email,
        cooldown: Duration,
    ) -> Result<Self, SealError> {
        let address = SealedEmail::seal(key, InviteByLink::KIND, email)?;
        let digest = AddressDigest::of(key, email);
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

/// Invites a person who followed an invite link, on behalf of the link's creator.
pub struct InviteFollower<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    /// The tenant of the link.
    pub scope: TenantScope,
    pub link: InviteLinkId,
    /// The email address they entered.
    pub email: &'a Email,
    pub conditions: Conditions,
}

impl Change for InviteFollower<'_> {
    /// None if the link was deleted or has expired.
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
