//! Invitations of people to a tenant.
//!
//! An email address has at most one invitation to a tenant. Inviting it again, or sending the
//! invitation again, gives the same invitation a new link, which revokes the previous one;
//! accepting it uses it up (`identity::joining`). An invitation depends on the member who gave
//! it: it is invalid while they may not assign its role.

mod sending;

use std::time::Duration;

use common::{
    clock::later,
    config::{self, PURGE_AFTER_MAX},
    crypto::{LinkToken, MasterKey, TokenHash},
    db::{
        Change, Data, DbError, OfTenant, PlatformScope, Record, Store, TenantScope, Txn,
        schema::{self, Field, Index},
    },
    email::Email,
    id::{InvitationId, InvitationLinkId, TenantId, UserId},
    origin::Principal,
};
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::Action,
    people::users::User,
    tenancy::{
        actor::Actor,
        former_members::FormerMember,
        mail_budget::{MailBudget, Spent, Wanted},
        memberships::Membership,
        roles::{Authority, Grant, OutOfReach, Permission, RoleRef},
        tenants::{Tenant, TenantStatus},
    },
};

pub(crate) use sending::invite_on_request;
pub use sending::{
    Answered, CompleteInvitationList, CompleteList, Conditions, Invite, InviteChunk, InviteList,
    InviteSome, PrepareReminder, Reminding, Resend, SendInvitation, SendInvitationReminder,
};

/// A pending invitation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Invitation {
    #[serde(rename = "_id")]
    pub id: InvitationId,
    /// The tenant to join.
    pub tenant_id: TenantId,
    /// Email address of the invited person.
    pub email: Email,
    /// The normalized email address, for comparisons.
    pub email_norm: String,
    /// The role they will have.
    pub role: RoleRef,
    /// The member who invites them.
    pub invited_by: Principal,
    /// Its link, which changes each time it is sent.
    pub link: InvitationLinkId,
    /// Hash of the token in the link.
    token_hash: TokenHash,
    /// When it was created.
    pub created_at: DateTime,
    /// When the link was created.
    pub sent_at: DateTime,
    /// When it expires.
    pub expires_at: DateTime,
    /// The link of which the person was last reminded.
    #[serde(default)]
    reminded_of: Option<InvitationLinkId>,
}

impl Record for Invitation {
    const COLLECTION: &'static str = "invitations";
    const DATA: Data = Data::of_tenant().without(&["token_hash"]);
    const INDEXES: &'static [Index] = &[
        Index::unique("invitations_tenant_email", &[("tenant_id", 1), ("email_norm", 1)]),
        Index::on("invitations_tenant", &[("tenant_id", 1), ("_id", 1)]),
        Index::unique("invitations_token", &[("token_hash", 1)]),
        Index::expiring("invitations_ttl", &[("expires_at", 1)], PURGE_AFTER_MAX),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("email", schema::STRING),
        ("email_norm", schema::STRING),
        ("role", schema::STRING),
        ("invited_by", schema::STRING),
        ("link", schema::STRING),
        ("token_hash", schema::STRING),
        ("created_at", schema::DATE),
        ("sent_at", schema::DATE),
        ("expires_at", schema::DATE),
    ];
}
impl OfTenant for Invitation {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

/// Limits of a tenant's invitations.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Lifetime of an invitation.
    pub ttl: Duration,
    /// Maximum number of pending invitations.
    pub max: u64,
    /// Mails a day that the tenant may send to people who are not its members.
    pub budget: config::MailBudget,
}

impl Invitation {
    /// Up to `limit` pending invitations of the scope's tenant, in the order of creation.
    pub async fn page(
        store: &Store,
        scope: TenantScope,
        after: Option<InvitationId>,
        limit: usize,
    ) -> Result<Vec<Self>, DbError> {
        let mut filter = pending(store.clock().now());
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        store
            .records::<Self>(scope)
            .list(filter, doc! { "_id": 1 }, i64::try_from(limit).unwrap_or(i64::MAX))
            .await
    }

    /// The invitation with this id, if it is pending and has this link.
    pub async fn under_link(
        store: &Store,
        scope: TenantScope,
        id: InvitationId,
        link: InvitationLinkId,
    ) -> Result<Option<Self>, DbError> {
        let filter = doc! { "_id": id, "link": link, "expires_at": { "$gt": store.clock().now() } };
        store.records::<Self>(scope).find(filter).await
    }

    /// The pending invitation for the `token` of a link. Platform-wide, because the bearer belongs
    /// to no tenant yet; they are shown only what they were invited to.
    pub async fn by_token(
        store: &Store,
        key: &MasterKey,
        token: &str,
    ) -> Result<Option<Self>, DbError> {
        let Some(hash) = hash_of(key, token) else { return Ok(None) };
        let filter = doc! { "token_hash": hash, "expires_at": { "$gt": store.clock().now() } };
        store.records::<Self>(PlatformScope).find(filter).await
    }

    /// Uses the invitation, if it is pending and still has this link.
    pub(crate) async fn take(&self, txn: &mut Txn) -> Result<Option<Self>, DbError> {
        let filter = doc! { "_id": self.id, "token_hash": self.token_hash.clone(), "expires_at": { "$gt": txn.clock().now() } };
        txn.records::<Self>(self.scope()).take(filter).await
    }

    /// What it grants, if the inviting member may still grant it.
    pub(crate) async fn vouched(&self, txn: &mut Txn) -> Result<Option<Grant>, DbError> {
        let inviter = Actor::on_behalf_of(self.scope(), self.invited_by).grant(txn).await?;
        let given = Grant::within(txn, self.scope(), self.role).await?;
        Ok(given.filter(|given| inviter.may(Permission::UsersInvite) && inviter.reaches(given)))
    }

    /// The person who invited them, or on whose behalf a key did.
    pub async fn inviter(&self, store: &Store) -> Result<Option<User>, DbError> {
        Actor::on_behalf_of(self.scope(), self.invited_by).person(store).await
    }

    /// As `Invitation::vouched`, outside any transaction.
    pub async fn grant(&self, store: &Store) -> Result<Option<Grant>, DbError> {
        vouched(store, Actor::on_behalf_of(self.scope(), self.invited_by), self.role).await
    }

    /// The scope of its tenant, justified by the invitation.
    pub(crate) fn scope(&self) -> TenantScope {
        TenantScope::of_row(self)
    }

    /// The token in its link.
    pub fn link_token(&self, key: &MasterKey) -> LinkToken {
        LinkToken::issue(key, self.link)
    }

    /// Notes that the person is reminded of this link of the invitation; returns whether that is
    /// the first time, or none if the invitation is not pending or has another link.
    async fn note_reminder(
        txn: &mut Txn,
        scope: TenantScope,
        id: InvitationId,
        link: InvitationLinkId,
    ) -> Result<Option<bool>, DbError> {
        let mut filter = pending(txn.clock().now());
        filter.extend(doc! { "_id": id, "link": link });
        let Some(found) = txn.records::<Self>(scope).find(filter).await? else { return Ok(None) };
        let update = doc! { "$set": { "reminded_of": link } };
        txn.records::<Self>(scope).update(doc! { "_id": id }, update).await?;
        Ok(Some(found.reminded_of != Some(link)))
    }

    /// Whether a pending invitation has this role.
    pub(crate) async fn names_role(
        txn: &mut Txn,
        scope: TenantScope,
        role: RoleRef,
    ) -> Result<bool, DbError> {
        let mut filter = pending(txn.clock().now());
        filter.insert("role", role);
        Ok(txn.records::<Self>(scope).find(filter).await?.is_some())
    }

    /// Revokes the invitation of an email address, if any.
    pub(crate) async fn forget_of(
        txn: &mut Txn,
        scope: TenantScope,
        email: &Email,
    ) -> Result<(), DbError> {
        txn.records::<Self>(scope)
            .delete_all(doc! { "email_norm": email.normalized() })
            .await
            .map(drop)
    }

    /// Gives it a new link and its full lifetime again.
    async fn renew_link(
        self,
        txn: &mut Txn,
        key: &MasterKey,
        role: RoleRef,
        by: Principal,
        ttl: Duration,
    ) -> Result<Self, DbError> {
        let (link, now) = (txn.clock().id(), txn.clock().now());
        let token_hash = LinkToken::issue(key, link).hash();
        let renewed = Self {
            role,
            invited_by: by,
            link,
            token_hash,
            sent_at: now,
            expires_at: later(now, ttl),
            ..self
        };
        let update = doc! { "$set": {
            "role": role,
            "invited_by": by,
            "link": link,
            "token_hash": renewed.token_hash.clone(),
            "sent_at": now,
            "expires_at": renewed.expires_at,
        } };
        txn.records::<Self>(renewed.scope()).update(doc! { "_id": renewed.id }, update).await?;
        Ok(renewed)
    }
}

/// The grant of `role`, if `inviter` may assign it now.
pub(crate) async fn vouched(
    store: &Store,
    inviter: Actor,
    role: RoleRef,
) -> Result<Option<Grant>, DbError> {
    let (inviter, given) =
        (inviter.grant_now(store).await?, Grant::of(store, inviter.scope, role).await?);
    Ok((inviter.may(Permission::UsersInvite) && inviter.reaches(&given)).then_some(given))
}

/// Matches invitations that are pending at `now`.
fn pending(now: DateTime) -> Document {
    doc! { "expires_at": { "$gt": now } }
}

fn hash_of(key: &MasterKey, token: &str) -> Option<TokenHash> {
    let link: InvitationLinkId = LinkToken::redeem(key, token)?;
    Some(LinkToken::issue(key, link).hash())
}

/// Why a person was not invited, or an invitation not changed.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// The invitation does not exist or is no longer pending.
    #[error("the invitation does not exist")]
    NotFound,
    /// The tenant has no such role.
    #[error("the role does not exist")]
    NoSuchRole,
    /// The role is out of the caller's reach.
    #[error(transparent)]
    Reach(#[from] OutOfReach),
    /// The email address belongs to a member.
    #[error("the email address belongs to a member")]
    AlreadyMember,
    /// The tenant has reached its limit of pending invitations.
    #[error("the tenant has reached its limit of pending invitations")]
    TooMany,
    /// The tenant does not invite email addresses of this domain.
    #[error("the tenant does not invite email addresses of this domain")]
    DomainNotAllowed,
    /// The tenant has sent as many mails today as it may, until after this time.
    #[error("the tenant has reached its daily limit of mails")]
    BudgetSpent(Duration),
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// A member who invites, within a transaction that has locked the tenant.
#[derive(Debug)]
pub struct Inviting<'a> {
    key: &'a MasterKey,
    actor: Actor,
    authority: Authority,
    tenant: Option<Tenant>,
    wanted: Wanted,
    terms: Terms,
}

/// Result of a request for an invitation.
#[derive(Debug)]
pub enum Request {
    /// The person is invited.
    Granted(Invitation),
    /// They had already been invited, by any member and with any role.
    GrantedBefore(Invitation),
    /// They are a former member, who must be invited by a member.
    FormerMember,
    /// An operator suspended the tenant.
    TenantSuspended,
}

impl<'a> Inviting<'a> {
    /// Locks the tenant, and reads whom it invites and what the actor may grant.
    pub async fn begin(
        txn: &mut Txn,
        key: &'a MasterKey,
        actor: Actor,
        terms: Terms,
    ) -> Result<Self, DbError> {
        let tenant = Tenant::lock(txn, actor.scope).await?;
        let authority = actor.authority(txn).await?;
        Ok(Self { key, actor, authority, tenant, wanted: Wanted::ByMember, terms })
    }

    /// Invites an email address. An existing invitation gets a new link and these terms. Fails with
    /// [`InviteError`].
    pub async fn invite(
        &self,
        txn: &mut Txn,
        email: &Email,
        role: RoleRef,
    ) -> Result<Invitation, InviteError> {
        self.may_give(txn, role).await?;
        self.may_invite(email)?;
        let scope = self.actor.scope;
        let email_norm = email.normalized();
        if self.account(txn, email).await?.is_some_and(|(_, is_member)| is_member) {
            return Err(InviteError::AlreadyMember);
        }
        let mut others = pending(txn.clock().now());
        others.insert("email_norm", doc! { "$ne": &email_norm });
        if txn.records::<Invitation>(scope).count(others).await? >= self.terms.max {
            return Err(InviteError::TooMany);
        }
        let before =
            txn.records::<Invitation>(scope).find(doc! { "email_norm": &email_norm }).await?;
        if let Some(before) = &before {
            self.may_replace(txn, before).await?;
        }
        self.spend_mail(txn).await?;
        let invitation = match before {
            Some(before) => {
                before.renew_link(txn, self.key, role, self.actor.principal, self.terms.ttl).await?
            }
            None => self.insert(txn, email, role).await?,
        };
        self.actor.record(txn, Action::InvitationCreated, invitation.id).await?;
        Ok(invitation)
    }

    /// Invites an email address on its own request: with an invite link, or because of its domain.
    /// This neither changes a personal invitation nor revokes its link, and leaves half of the
    /// limit of pending invitations to personal ones.
    pub async fn invite_on_request(
        mut self,
        txn: &mut Txn,
        email: &Email,
        role: RoleRef,
    ) -> Result<Request, InviteError> {
        self.wanted = Wanted::OnRequest;
        if !self.tenant.as_ref().is_some_and(|tenant| tenant.status == TenantStatus::Active) {
            return Ok(Request::TenantSuspended);
        }
        let account = self.account(txn, email).await?;
        if account.is_some_and(|(_, is_member)| is_member) {
            return Err(InviteError::AlreadyMember);
        }
        let mut waiting = pending(txn.clock().now());
        waiting.insert("email_norm", email.normalized());
        if let Some(before) = txn.records::<Invitation>(self.actor.scope).find(waiting).await?
            && before.vouched(txn).await?.is_some()
        {
            self.spend_mail(txn).await?;
            return Ok(Request::GrantedBefore(before));
        }
        if FormerMember::is(txn, self.actor.scope, email, account.map(|(user, _)| user)).await? {
            return Ok(Request::FormerMember);
        }
        self.terms.max = self.terms.max.div_ceil(2);
        self.invite(txn, email, role).await.map(Request::Granted)
    }

    /// The account of the email address, if any, and whether its owner is a member.
    async fn account(
        &self,
        txn: &mut Txn,
        email: &Email,
    ) -> Result<Option<(UserId, bool)>, DbError> {
        let account = txn
            .records::<User>(PlatformScope)
            .find(doc! { "email_norm": email.normalized() })
            .await?;
        let Some(User { id, .. }) = account else { return Ok(None) };
        Ok(Some((id, Membership::within(txn, self.actor.scope, id).await?.is_some())))
    }

    /// Sends an invitation again, with a new link; from now on it depends on the actor.
    pub async fn resend(&self, txn: &mut Txn, id: InvitationId) -> Result<Invitation, InviteError> {
        let mut filter = pending(txn.clock().now());
        filter.insert("_id", id);
        let invitation = txn
            .records::<Invitation>(self.actor.scope)
            .find(filter)
            .await?
            .ok_or(InviteError::NotFound)?;
        let role = invitation.role;
        self.may_give(txn, role).await?;
        self.may_invite(&invitation.email)?;
        self.spend_mail(txn).await?;
        let invitation = invitation
            .renew_link(txn, self.key, role, self.actor.principal, self.terms.ttl)
            .await?;
        self.actor.record(txn, Action::InvitationResent, id).await?;
        Ok(invitation)
    }

    fn may_invite(&self, email: &Email) -> Result<(), InviteError> {
        let domains = self.tenant.as_ref().map(|tenant| &tenant.security.allowed_email_domains);
        if domains.is_none_or(|domains| domains.admit(email)) {
            Ok(())
        } else {
            Err(InviteError::DomainNotAllowed)
        }
    }

    /// Counts the mail of an invitation towards the tenant's mail budget.
    async fn spend_mail(&self, txn: &mut Txn) -> Result<(), InviteError> {
        let tenant = self.tenant.as_ref().ok_or(InviteError::NotFound)?;
        let spent = MailBudget::spend(txn, tenant, self.wanted, &self.terms.budget).await?;
        spent.map_err(|Spent(wait)| InviteError::BudgetSpent(wait))
    }

    async fn may_give(&self, txn: &mut Txn, role: RoleRef) -> Result<(), InviteError> {
        let given =
            Grant::within(txn, self.actor.scope, role).await?.ok_or(InviteError::NoSuchRole)?;
        if !self.authority.grant.may(Permission::UsersInvite) {
            return Err(OutOfReach::TooHigh.into());
        }
        Ok(self.authority.may_give(&given)?)
    }

    /// Whether the actor may replace an existing invitation: only if they may grant its role
    /// themselves, or it is invalid.
    async fn may_replace(&self, txn: &mut Txn, before: &Invitation) -> Result<(), InviteError> {
        if before.expires_at <= txn.clock().now() || before.vouched(txn).await?.is_none() {
            return Ok(());
        }
        may_take(txn, &self.authority.grant, before).await
    }

    async fn insert(
        &self,
        txn: &mut Txn,
        email: &Email,
        role: RoleRef,
    ) -> Result<Invitation, DbError> {
        let (link, now) = (txn.clock().id(), txn.clock().now());
        let invitation = Invitation {
            id: txn.clock().id(),
            tenant_id: self.actor.scope.tenant_id(),
            email: email.clone(),
            email_norm: email.normalized(),
            role,
            invited_by: self.actor.principal,
            link,
            token_hash: LinkToken::issue(self.key, link).hash(),
            created_at: now,
            sent_at: now,
            expires_at: later(now, self.terms.ttl),
            reminded_of: None,
        };
        txn.records::<Invitation>(self.actor.scope).insert(&invitation).await?;
        Ok(invitation)
    }
}

/// Whether the holder of `grant` may revoke what an invitation grants; a deleted role grants
/// nothing.
async fn may_take(
    txn: &mut Txn,
    grant: &Grant,
    invitation: &Invitation,
) -> Result<(), InviteError> {
    let given = Grant::within(txn, invitation.scope(), invitation.role).await?;
    if given.is_none_or(|given| grant.reaches(&given)) {
        Ok(())
    } else {
        Err(OutOfReach::TooHigh.into())
    }
}

/// Revokes an invitation.
#[derive(Debug, Clone, Copy)]
pub struct CancelInvitation {
    /// The caller.
    pub actor: Actor,
    pub invitation: InvitationId,
}

impl Change for CancelInvitation {
    type Output = ();
    type Error = InviteError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), InviteError> {
        let mut filter = pending(txn.clock().now());
        filter.insert("_id", self.invitation);
        let invitation = txn
            .records::<Invitation>(self.actor.scope)
            .take(filter)
            .await?
            .ok_or(InviteError::NotFound)?;
        let grant = self.actor.grant(txn).await?;
        may_take(txn, &grant, &invitation).await?;
        self.actor.record(txn, Action::InvitationCancelled, self.invitation).await?;
        Ok(())
    }
}
