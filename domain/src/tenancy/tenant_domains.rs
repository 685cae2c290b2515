//! Email domains of a tenant, verified by a DNS record; people with an email address there can be
//! invited automatically.
//!
//! A tenant adds a domain and publishes a TXT record under it whose value is unique to the tenant
//! (as in RFC 8555 §8.4, `dns-01`). While the record exists, only this tenant holds the domain. The
//! tenant may choose a role in which people of the domain are invited: new users when their email
//! address is verified, existing users when they request it. It is an ordinary invitation
//! ([`crate::tenancy::invitations`]), so nobody joins with an account's password alone, or enters
//! an account with its mailbox alone.

mod absence;

use std::time::Duration;

use common::{
    clock::millis_of,
    crypto::{LinkToken, MasterKey},
    db::{
        Change, Data, DbError, OfTenant, PlatformScope, Record, Store, TenantScope, Txn,
        is_duplicate,
        schema::{self, Field, Index},
    },
    email::Email,
    id::{TenantDomainId, TenantId, UserId},
    origin::Principal,
};
use jobs::{Job, Queue, Unique, Window, stage, stage_at};
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry, Property},
    people::users::User,
    queues,
    tenancy::{
        actor::Actor,
        invitations::{Answered, Conditions, InviteError, invite_on_request, vouched},
        roles::{Authority, Grant, OutOfReach, Permission, Role, RoleRef},
        tenant_security::EmailDomain,
        tenants::Tenant,
    },
};
use absence::Absence;

/// Maximum number of domains in a listing; more than a tenant may have.
const LISTED_MAX: i64 = 1_000;
/// Unique index: a tenant has a domain once.
const DOMAIN_INDEX: &str = "tenant_domains_tenant_domain";

/// A domain that a tenant claims.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TenantDomain {
    /// Its id, from which its record is derived.
    #[serde(rename = "_id")]
    pub id: TenantDomainId,
    pub tenant_id: TenantId,
    /// The domain, without its subdomains.
    pub domain: EmailDomain,
    /// Unique over all tenants: `@` and the domain while it is verified, otherwise its id.
    held_as: String,
    /// State of its verification.
    pub status: Status,
    /// The role in which its people are invited automatically; none if they are not.
    pub auto_invite: Option<AutoInvite>,
    /// The member who added it.
    pub added_by: Principal,
    /// When it was added.
    pub created_at: DateTime,
    /// When its record was last checked.
    pub checked_at: Option<DateTime>,
    /// When it was verified.
    pub verified_at: Option<DateTime>,
    /// Since when the record of a verified domain has been missing.
    pub missing_since: Option<DateTime>,
    /// How long it was missing before its name servers stopped answering, in milliseconds.
    #[serde(default)]
    missing_ms: i64,
    /// Since when the name servers of a verified domain have not answered.
    #[serde(default)]
    pub unanswered_since: Option<DateTime>,
    /// How long they did not answer before they answered that the record is missing, in milliseconds.
    #[serde(default)]
    unanswered_ms: i64,
}

/// Automatic invitations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoInvite {
    /// The role of the invited people.
    pub role: RoleRef,
    /// The member on whose behalf they are invited: invalid while that member may not assign the
    /// role.
    pub by: Principal,
}

/// State of a domain's verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its record was not checked yet.
    Pending,
    /// Its record exists, or did until recently.
    Verified,
    /// Its record does not exist.
    RecordMissing,
    /// Its record exists, but another tenant already holds the domain.
    HeldByAnother,
    /// Its name servers did not answer.
    NoAnswer,
}

/// Result of looking up a domain's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The expected record.
    Record,
    /// Other records, or none.
    Nothing,
    /// Its name servers did not answer, several times.
    NoAnswer,
}

impl Status {
    /// Its name in rows, responses and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Verified => "verified",
            Self::RecordMissing => "record_missing",
            Self::HeldByAnother => "held_by_another",
            Self::NoAnswer => "no_answer",
        }
    }
}

impl From<Status> for Bson {
    fn from(status: Status) -> Self {
        Self::String(status.as_str().to_owned())
    }
}

impl Record for TenantDomain {
    const COLLECTION: &'static str = "tenant_domains";
    const DATA: Data = Data::of_tenant();
    const INDEXES: &'static [Index] = &[
        Index::unique(DOMAIN_INDEX, &[("tenant_id", 1), ("domain", 1)]),
        Index::unique("tenant_domains_held", &[("held_as", 1)]),
        Index::on("tenant_domains_checked", &[("status", 1), ("checked_at", 1)]),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("domain", schema::STRING),
        ("held_as", schema::STRING),
        ("status", schema::STRING),
        ("added_by", schema::STRING),
        ("created_at", schema::DATE),
        ("checked_at", schema::DATE_OR_NULL),
        ("verified_at", schema::DATE_OR_NULL),
        ("missing_since", schema::DATE_OR_NULL),
    ];
}
impl OfTenant for TenantDomain {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

impl TenantDomain {
    /// Every domain of the scope's tenant, in the order of creation.
    pub async fn all(store: &Store, scope: TenantScope) -> Result<Vec<Self>, DbError> {
        store.records::<Self>(scope).list(doc! {}, doc! { "_id": 1 }, LISTED_MAX).await
    }

    /// The domain of the scope's tenant with this id.
    pub async fn of(
        store: &Store,
        scope: TenantScope,
        id: TenantDomainId,
    ) -> Result<Option<Self>, DbError> {
        store.records::<Self>(scope).find(doc! { "_id": id }).await
    }

    /// Up to `limit` domains that are verified, or would be without another tenant, and were not
    /// checked since `before`, longest ago first. Across all tenants, for maintenance: nothing of
    /// them is shown to anybody.
    pub async fn stale(store: &Store, before: DateTime, limit: i64) -> Result<Vec<Self>, DbError> {
        let filter = doc! { "status": { "$in": [Status::Verified, Status::HeldByAnother] }, "checked_at": { "$lt": before } };
        store.records::<Self>(PlatformScope).list(filter, doc! { "checked_at": 1 }, limit).await
    }

    /// The domain through which a person with this email address can be invited, if any.
    /// Platform-wide, because they do not belong to its tenant yet.
    pub async fn open_to(store: &Store, email: &Email) -> Result<Option<Self>, DbError> {
        store.records::<Self>(PlatformScope).find(open_to(email)).await
    }

    /// As `TenantDomain::open_to`, within a transaction.
    async fn open_within(txn: &mut Txn, email: &Email) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(PlatformScope).find(open_to(email)).await
    }

    /// What its people are granted, if the member who chose the role may still assign it.
    pub async fn grant(&self, store: &Store) -> Result<Option<Grant>, DbError> {
        match self.auto_invite {
            Some(AutoInvite { role, by }) => {
                vouched(store, Actor::on_behalf_of(self.scope(), by), role).await
            }
            None => Ok(None),
        }
    }

    async fn within(
        txn: &mut Txn,
        scope: TenantScope,
        id: TenantDomainId,
    ) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(scope).find(doc! { "_id": id }).await
    }

    /// The scope of its tenant, for a person who is invited through it.
    pub fn scope(&self) -> TenantScope {
        TenantScope::of_row(self)
    }

    /// The DNS name of its record.
    pub fn record_name(&self) -> String {
        format!("_tenantry.{}", self.domain)
    }

    /// The value of its record: different for every tenant, and always the same.
    pub fn record_value(&self, key: &MasterKey) -> String {
        format!("tenantry-verification={}", LinkToken::issue(key, self.id).expose())
    }

    /// Whether one of the tenant's domains has automatic invitations with this role.
    pub(crate) async fn names_role(
        txn: &mut Txn,
        scope: TenantScope,
        role: RoleRef,
    ) -> Result<bool, DbError> {
        Ok(txn.records::<Self>(scope).find(doc! { "auto_invite.role": role }).await?.is_some())
    }
}

/// Matches the domain through which people with this email address are invited.
fn open_to(email: &Email) -> Document {
    doc! { "held_as": held(&EmailDomain::of(email)), "auto_invite": { "$ne": null } }
}

/// The value of `held_as` for a verified domain.
fn held(domain: &EmailDomain) -> String {
    format!("@{domain}")
}

/// Why a domain was not added, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// The tenant has no such domain.
    #[error("the tenant has no such domain")]
    NotFound,
    /// The tenant already has this domain.
    #[error("the tenant already has this domain")]
    AddedAlready,
    /// The tenant has reached its limit of domains.
    #[error("the tenant has reached its limit of domains")]
    TooMany,
    /// The caller no longer has the permission.
    #[error("the caller no longer has the permission")]
    NotAllowed,
    /// The tenant has no such role.
    #[error("the role does not exist")]
    NoSuchRole,
    /// The role is out of the caller's reach.
    #[error(transparent)]
    Reach(#[from] OutOfReach),
    /// Everyone with an email address of the domain would own the tenant.
    #[error("owners can only be invited individually")]
    OwnerRole,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What the actor may do, if they still have the permission.
async fn permitted(txn: &mut Txn, actor: Actor) -> Result<Authority, DomainError> {
    Tenant::lock(txn, actor.scope).await?;
    let authority = actor.authority(txn).await?;
    if authority.grant.may(Permission::SecurityWrite) {
        Ok(authority)
    } else {
        Err(DomainError::NotAllowed)
    }
}

/// Adds a domain, which must then be verified.
#[derive(Debug)]
pub struct AddDomain {
    /// The caller.
    pub actor: Actor,
    pub domain: EmailDomain,
    /// Maximum number of domains per tenant.
    pub max: u64,
}

impl Change for AddDomain {
    type Output = TenantDomain;
    type Error = DomainError;

    async fn apply(&self, txn: &mut Txn) -> Result<TenantDomain, DomainError> {
        permitted(txn, self.actor).await?;
        let scope = self.actor.scope;
        if txn.records::<TenantDomain>(scope).count(doc! {}).await? >= self.max {
            return Err(DomainError::TooMany);
        }
        let id: TenantDomainId = txn.clock().id();
        let domain = TenantDomain {
            id,
            tenant_id: scope.tenant_id(),
            domain: self.domain.clone(),
            held_as: id.to_string(),
            status: Status::Pending,
            auto_invite: None,
            added_by: self.actor.principal,
            created_at: txn.clock().now(),
            checked_at: None,
            verified_at: None,
            missing_since: None,
            missing_ms: 0,
            unanswered_since: None,
            unanswered_ms: 0,
        };
        txn.records::<TenantDomain>(scope).insert(&domain).await.map_err(|error| {
            if is_duplicate(&error, DOMAIN_INDEX) {
                DomainError::AddedAlready
            } else {
                error.into()
            }
        })?;
        self.actor.record(txn, Action::DomainAdded, id).await?;
        Ok(domain)
    }
}

/// Sets the role in which people of a domain are invited automatically, once it is verified.
#[derive(Debug, Clone, Copy)]
pub struct SetAutoInvite {
    /// The caller.
    pub actor: Actor,
    pub domain: TenantDomainId,
    /// The role; none to stop inviting automatically.
    pub role: Option<RoleRef>,
}

impl Change for SetAutoInvite {
    type Output = TenantDomain;
    type Error = DomainError;

    async fn apply(&self, txn: &mut Txn) -> Result<TenantDomain, DomainError> {
        let authority = permitted(txn, self.actor).await?;
        let scope = self.actor.scope;
        let before =
            TenantDomain::within(txn, scope, self.domain).await?.ok_or(DomainError::NotFound)?;
        if let Some(role) = self.role {
            if role == Role::Owner.into() {
                return Err(DomainError::OwnerRole);
            }
            let given = Grant::within(txn, scope, role).await?.ok_or(DomainError::NoSuchRole)?;
            if !authority.grant.may(Permission::UsersInvite) {
                return Err(OutOfReach::TooHigh.into());
            }
            authority.may_give(&given)?;
        }
        let auto_invite = self.role.map(|role| AutoInvite { role, by: self.actor.principal });
        let stored = auto_invite.map(|AutoInvite { role, by }| doc! { "role": role, "by": by });
        txn.records::<TenantDomain>(scope)
            .update(doc! { "_id": self.domain }, doc! { "$set": { "auto_invite": stored } })
            .await?;
        let role_before = before.auto_invite.map(|auto_invite| auto_invite.role);
        let event = self.actor.did(Action::DomainAutoInviteChanged, self.domain);
        event
            .changed(Property::AutoInviteRole, &role_before, &self.role)?
            .record(txn, scope)
            .await?;
        Ok(TenantDomain { auto_invite, ..before })
    }
}

/// Removes a domain. Invitations that resulted from it stay.
#[derive(Debug, Clone, Copy)]
pub struct RemoveDomain {
    /// The caller.
    pub actor: Actor,
    pub domain: TenantDomainId,
}

impl Change for RemoveDomain {
    type Output = ();
    type Error = DomainError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DomainError> {
        permitted(txn, self.actor).await?;
        let filter = doc! { "_id": self.domain };
        txn.records::<TenantDomain>(self.actor.scope)
            .take(filter)
            .await?
            .ok_or(DomainError::NotFound)?;
        self.actor.record(txn, Action::DomainRemoved, self.domain).await?;
        Ok(())
    }
}

/// Records the result of a check. A verified domain is not lost immediately when its record is
/// missing, because DNS zones have temporary failures.
#[derive(Debug, Clone, Copy)]
pub struct NoteRecord {
    /// The tenant of the domain.
    pub scope: TenantScope,
    pub domain: TenantDomainId,
    /// Result of the lookup.
    pub found: Found,
    /// How long a verified domain stays verified without its record; four times as long if its name
    /// servers do not answer.
    pub grace: Duration,
}

impl Change for NoteRecord {
    /// The new state; none if the domain was removed.
    type Output = Option<Status>;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<Status>, DbError> {
        let Some(before) = TenantDomain::within(txn, self.scope, self.domain).await? else {
            return Ok(None);
        };
        let now = txn.clock().now();
        let was_verified = before.status == Status::Verified;
        let known = if was_verified { Absence::of(&before) } else { Absence::default() };
        let absence = known.after(self.found, now);
        let (known_end, ends) = (known.ends(now, self.grace), absence.ends(now, self.grace));
        let status = match self.found {
            _ if was_verified && ends.is_none_or(|ends| ends > now) => Status::Verified,
            Found::Record if self.is_held_by_another(txn, &before).await? => Status::HeldByAnother,
            Found::Record => Status::Verified,
            Found::Nothing => Status::RecordMissing,
            Found::NoAnswer => Status::NoAnswer,
        };
        let is_verified = status == Status::Verified;
        let Absence { missing, unanswered } =
            if is_verified { absence } else { Absence::default() };
        let update = doc! { "$set": {
            "status": status,
            "held_as": if is_verified { held(&before.domain) } else { before.id.to_string() },
            "checked_at": now,
            "verified_at": is_verified.then(|| before.verified_at.filter(|_| was_verified).unwrap_or(now)),
            "missing_since": missing.since,
            "missing_ms": missing.before_ms,
            "unanswered_since": unanswered.since,
            "unanswered_ms": unanswered.before_ms,
        } };
        txn.records::<TenantDomain>(self.scope).update(doc! { "_id": self.domain }, update).await?;
        if is_verified != was_verified {
            let action = if is_verified { Action::DomainVerified } else { Action::DomainLost };
            Entry::new(action, before.id).record(txn, TenantScope::of_row(&before)).await?;
        }
        if let Some(ends) = ends.filter(|_| is_verified && ends != known_end) {
            let job = EndDomainGrace { domain: before.id };
            stage_at(txn, Some(before.tenant_id), &job, ends).await?;
        }
        Ok(Some(status))
    }
}

impl NoteRecord {
    /// Platform-wide: nothing of the other tenant is revealed.
    async fn is_held_by_another(
        &self,
        txn: &mut Txn,
        domain: &TenantDomain,
    ) -> Result<bool, DbError> {
        let filter = doc! { "held_as": held(&domain.domain), "_id": { "$ne": domain.id } };
        Ok(txn.records::<TenantDomain>(PlatformScope).find(filter).await?.is_some())
    }
}

/// Checks whether a domain's record exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDomain {
    pub domain: TenantDomainId,
}

impl Job for CheckDomain {
    const KIND: &'static str = "tenant_domain.check";
    const QUEUE: Queue = queues::MAINTENANCE;

    /// Repeated requests wait for one check, which finds the current state.
    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: self.domain.to_string(), window: Window::UntilStarted })
    }
}

/// Checks whether a domain's record exists when its grace period ends, so that the tenant does not
/// hold it until the next daily check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndDomainGrace {
    pub domain: TenantDomainId,
}

impl Job for EndDomainGrace {
    const KIND: &'static str = "tenant_domain.end_grace";
    const QUEUE: Queue = queues::MAINTENANCE;
}

/// Stages checks of domains that were verified long ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecheckDomains {}

impl Job for RecheckDomains {
    const KIND: &'static str = "tenant_domain.recheck";
    const QUEUE: Queue = queues::MAINTENANCE;

    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: String::new(), window: Window::UntilFinished })
    }
}

/// Invites a user to the tenant that admits their email domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteByDomain {
    pub user: UserId,
    /// Time within which another request has no effect, in milliseconds.
    pub cooldown_ms: u64,
}

impl Job for InviteByDomain {
    const KIND: &'static str = "tenant_domain.invite";
    const QUEUE: Queue = queues::EMAIL;

    fn unique(&self) -> Option<Unique> {
        Some(Unique {
            key: self.user.to_string(),
            window: Window::For(Duration::from_millis(self.cooldown_ms)),
        })
    }
}

/// Requests checks of domains.
#[derive(Debug)]
pub struct CheckDomains(pub Vec<(TenantId, TenantDomainId)>);

impl CheckDomains {
    pub fn of<'a>(domains: impl IntoIterator<Item = &'a TenantDomain>) -> Self {
        Self(domains.into_iter().map(|domain| (domain.tenant_id, domain.id)).collect())
    }
}

impl Change for CheckDomains {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        for (tenant, domain) in &self.0 {
            stage(txn, Some(*tenant), &CheckDomain { domain: *domain }).await?;
        }
        Ok(())
    }
}

/// Requests an invitation to the tenant that admits the user's email domain.
#[derive(Debug, Clone, Copy)]
pub struct AskByDomain {
    pub tenant: TenantId,
    pub user: UserId,
    /// Time within which another request has no effect.
    pub cooldown: Duration,
}

impl Change for AskByDomain {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage_invitation(txn, self.tenant, self.user, self.cooldown).await
    }
}

/// Stages the invitation of `user` to the tenant that admits their email domain, if any; at most
/// once within `cooldown`.
pub(crate) async fn invite_by_domain(
    txn: &mut Txn,
    user: &User,
    cooldown: Duration,
) -> Result<(), DbError> {
    match TenantDomain::open_within(txn, &user.email).await? {
        Some(domain) => stage_invitation(txn, domain.tenant_id, user.id, cooldown).await,
        None => Ok(()),
    }
}

async fn stage_invitation(
    txn: &mut Txn,
    tenant: TenantId,
    user: UserId,
    cooldown: Duration,
) -> Result<(), DbError> {
    let cooldown_ms = u64::try_from(millis_of(cooldown)).unwrap_or_default();
    stage(txn, Some(tenant), &InviteByDomain { user, cooldown_ms }).await.map(drop)
}

/// Invites a user to the tenant that admits their email domain, on behalf of the member who enabled
/// it.
pub struct InviteColleague<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    pub scope: TenantScope,
    pub user: UserId,
    pub conditions: Conditions,
}

impl Change for InviteColleague<'_> {
    /// None if the tenant no longer admits their domain.
    type Output = Option<Answered>;
    type Error = InviteError;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<Answered>, InviteError> {
        let user = User::within(txn, self.user).await?.filter(|user| user.disabled_at.is_none());
        let Some(user) = user else { return Ok(None) };
        let domain = TenantDomain::open_within(txn, &user.email).await?;
        let open = domain
            .filter(|domain| domain.tenant_id == self.scope.tenant_id())
            .and_then(|domain| domain.auto_invite);
        let Some(AutoInvite { role, by }) = open else { return Ok(None) };
        let actor = Actor::on_behalf_of(self.scope, by);
        invite_on_request(txn, self.key, actor, &user.email, role, self.conditions).await.map(Some)
    }
}
