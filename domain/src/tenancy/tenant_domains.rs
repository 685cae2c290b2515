//! The domains of a tenant's people: proved by a DNS record, and who has an address there is
//! invited by themselves.
//!
//! A tenant adds a domain and publishes a TXT record under it that nobody else is given (the way of
//! RFC 8555 §8.4, `dns-01`). While the record is there, one tenant alone holds the domain. It may
//! say as what its people are invited: those who register are when their address is verified, and
//! those who have an account when they ask. It is an ordinary invitation ([`crate::tenancy::invitations`]):
//! nobody gets in by an account's password alone, nor into an account by its mailbox alone.

use std::time::Duration;

use common::{
    clock::{later, millis_of},
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
use jobs::{Job, Queue, Unique, Window, stage};
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry, Property},
    identity::{actor::Actor, users::User},
    tenancy::{
        invitations::{Answered, Conditions, InviteError, invite_on_request, vouched},
        roles::{Grant, Permission, Role, RoleRef},
        tenant_security::EmailDomain,
        tenants::Tenant,
    },
};

/// The most domains that are listed; more than a tenant may be allowed to have.
const LISTED_MAX: i64 = 1_000;
/// A domain whose name servers do not answer is let go of after so many times the grace of one
/// whose record is gone.
const NO_ANSWER_GRACES: u32 = 4;
/// Unique: a tenant has a domain once.
const DOMAIN_INDEX: &str = "tenant_domains_tenant_domain";

/// A domain that a tenant says is its people's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TenantDomain {
    /// Its id, which its proof is made of.
    #[serde(rename = "_id")]
    pub id: TenantDomainId,
    /// Which tenant.
    pub tenant_id: TenantId,
    /// The domain, without its subdomains.
    pub domain: EmailDomain,
    /// Unique over all tenants: the domain behind an `@` while it is verified, otherwise its id.
    held_as: String,
    /// How far it is.
    pub status: Status,
    /// As what its people are invited by themselves, and on whose word; none when they are not.
    pub auto_invite: Option<AutoInvite>,
    /// Who added it.
    pub added_by: Principal,
    /// When it was added.
    pub created_at: DateTime,
    /// When its record was last looked for.
    pub checked_at: Option<DateTime>,
    /// Since when it is verified.
    pub verified_at: Option<DateTime>,
    /// Since when its record is gone, of one that is verified still.
    pub missing_since: Option<DateTime>,
}

/// As what people are invited by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoInvite {
    /// The role.
    pub role: RoleRef,
    /// Whose word it is: void while they may not invite to it.
    pub by: Principal,
}

/// How far the verification of a domain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its record was not looked for yet.
    Pending,
    /// Its record is there, or was until a short time ago.
    Verified,
    /// Its record is not there.
    RecordMissing,
    /// Its record is there, and so is that of another tenant, which was first.
    HeldByAnother,
    /// Its name servers did not answer.
    NoAnswer,
}

/// What was found where a domain's record is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The record.
    Record,
    /// Others, or none.
    Nothing,
    /// Its name servers did not answer, several times.
    NoAnswer,
}

impl Status {
    /// As written in rows, answers and metrics.
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
    /// Every domain of the scope's tenant, in the order in which they were added.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn all(store: &Store, scope: TenantScope) -> Result<Vec<Self>, DbError> {
        store.records::<Self>(scope).list(doc! {}, doc! { "_id": 1 }, LISTED_MAX).await
    }

    /// The domain of the scope's tenant with this id.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn of(
        store: &Store,
        scope: TenantScope,
        id: TenantDomainId,
    ) -> Result<Option<Self>, DbError> {
        store.records::<Self>(scope).find(doc! { "_id": id }).await
    }

    /// Up to `limit` that are verified, or would be if another tenant let go, and were not looked
    /// at since `before`, the longest ago first. Across all tenants, for upkeep: nothing of them is
    /// shown to anybody.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn stale(store: &Store, before: DateTime, limit: i64) -> Result<Vec<Self>, DbError> {
        let filter = doc! { "status": { "$in": [Status::Verified, Status::HeldByAnother] }, "checked_at": { "$lt": before } };
        store.records::<Self>(PlatformScope).list(filter, doc! { "checked_at": 1 }, limit).await
    }

    /// The one by which somebody of this address may be invited, if there is one. Platform-wide:
    /// they do not belong to its tenant yet.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open_to(store: &Store, email: &Email) -> Result<Option<Self>, DbError> {
        store.records::<Self>(PlatformScope).find(open_to(email)).await
    }

    /// As `TenantDomain::open_to`, as `txn` sees it.
    ///
    /// # Errors
    /// When the store fails.
    async fn open_within(txn: &mut Txn, email: &Email) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(PlatformScope).find(open_to(email)).await
    }

    /// What its people are invited to, if whoever said so may invite to it now.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn grant(&self, store: &Store) -> Result<Option<Grant>, DbError> {
        match self.auto_invite {
            Some(AutoInvite { role, by }) => {
                vouched(store, Actor { scope: self.scope(), principal: by }, role).await
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

    /// Its tenant's rows, for whoever is invited by it.
    pub fn scope(&self) -> TenantScope {
        TenantScope::of_row(self)
    }

    /// Under which name its record is looked for.
    pub fn record_name(&self) -> String {
        format!("_tenantry.{}", self.domain)
    }

    /// What its record says: different for every tenant, and the same whenever it is asked for.
    pub fn record_value(&self, key: &MasterKey) -> String {
        format!("tenantry-verification={}", LinkToken::issue(key, self.id).expose())
    }

    /// Whether people of one of the tenant's domains are invited to this.
    pub(crate) async fn names_role(
        txn: &mut Txn,
        scope: TenantScope,
        role: RoleRef,
    ) -> Result<bool, DbError> {
        Ok(txn.records::<Self>(scope).find(doc! { "auto_invite.role": role }).await?.is_some())
    }
}

/// Those that people of an address' domain are invited by.
fn open_to(email: &Email) -> Document {
    doc! { "held_as": held(&EmailDomain::of(email)), "auto_invite": { "$ne": null } }
}

/// What a verified domain is held as.
fn held(domain: &EmailDomain) -> String {
    format!("@{domain}")
}

/// Why a domain was not added, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// The tenant has no such domain.
    #[error("the tenant has no such domain")]
    NotFound,
    /// The tenant has it already.
    #[error("the tenant has the domain already")]
    AddedAlready,
    /// The tenant has as many as it may.
    #[error("the tenant has as many domains as it may")]
    TooMany,
    /// The one who asks may not do this any more.
    #[error("the role does not hold the permission any more")]
    NotAllowed,
    /// The tenant has no such role.
    #[error("there is no such role")]
    NoSuchRole,
    /// The role may do more than the one who asks.
    #[error("the role may do more than the one who asks")]
    TooHigh,
    /// Whoever has an address of the domain would own the tenant.
    #[error("owners are invited one by one")]
    OwnerRole,
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What the actor may do, who must hold the permission still.
async fn permitted(txn: &mut Txn, actor: Actor) -> Result<Grant, DomainError> {
    Tenant::hold(txn, actor.scope).await?;
    let grant = actor.grant(txn).await?;
    if grant.may(Permission::SecurityWrite) { Ok(grant) } else { Err(DomainError::NotAllowed) }
}

/// Adds a domain, which is to be verified then.
#[derive(Debug)]
pub struct AddDomain {
    /// Who asks.
    pub actor: Actor,
    /// Which.
    pub domain: EmailDomain,
    /// The most that the tenant may have.
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

/// Says as what people of a domain are invited by themselves, once it is verified.
#[derive(Debug, Clone, Copy)]
pub struct SetAutoInvite {
    /// Who asks.
    pub actor: Actor,
    /// Which domain.
    pub domain: TenantDomainId,
    /// As what; none when they are not to.
    pub role: Option<RoleRef>,
}

impl Change for SetAutoInvite {
    type Output = TenantDomain;
    type Error = DomainError;

    async fn apply(&self, txn: &mut Txn) -> Result<TenantDomain, DomainError> {
        let grant = permitted(txn, self.actor).await?;
        let scope = self.actor.scope;
        let before =
            TenantDomain::within(txn, scope, self.domain).await?.ok_or(DomainError::NotFound)?;
        if let Some(role) = self.role {
            if role == Role::Owner.into() {
                return Err(DomainError::OwnerRole);
            }
            let given = Grant::within(txn, scope, role).await?.ok_or(DomainError::NoSuchRole)?;
            if !grant.may(Permission::UsersInvite) || !grant.reaches(&given) {
                return Err(DomainError::TooHigh);
            }
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

/// Removes a domain. Who was invited because of it stays invited.
#[derive(Debug, Clone, Copy)]
pub struct RemoveDomain {
    /// Who asks.
    pub actor: Actor,
    /// Which.
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

/// Notes whether a domain's record is there. One that was is not let go of at once when it is not
/// any more: zones have their bad days.
#[derive(Debug, Clone, Copy)]
pub struct NoteRecord {
    /// The tenant whose domain it is.
    pub scope: TenantScope,
    /// Which.
    pub domain: TenantDomainId,
    /// What was found.
    pub found: Found,
    /// How long a verified domain stays so without its record; four times as long where its name
    /// servers do not answer.
    pub grace: Duration,
}

impl Change for NoteRecord {
    /// How far it is now; none when it was removed.
    type Output = Option<Status>;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<Status>, DbError> {
        let Some(before) = TenantDomain::within(txn, self.scope, self.domain).await? else {
            return Ok(None);
        };
        let now = txn.clock().now();
        let was_verified = before.status == Status::Verified;
        let missing_since = match self.found {
            Found::Record => None,
            Found::Nothing | Found::NoAnswer => {
                Some(before.missing_since.filter(|_| was_verified).unwrap_or(now))
            }
        };
        let grace =
            if self.found == Found::NoAnswer { self.grace * NO_ANSWER_GRACES } else { self.grace };
        let status = match self.found {
            _ if was_verified && missing_since.is_none_or(|since| later(since, grace) > now) => {
                Status::Verified
            }
            Found::Record if self.is_held_by_another(txn, &before).await? => Status::HeldByAnother,
            Found::Record => Status::Verified,
            Found::Nothing => Status::RecordMissing,
            Found::NoAnswer => Status::NoAnswer,
        };
        let is_verified = status == Status::Verified;
        let update = doc! { "$set": {
            "status": status,
            "held_as": if is_verified { held(&before.domain) } else { before.id.to_string() },
            "checked_at": now,
            "verified_at": is_verified.then(|| before.verified_at.filter(|_| was_verified).unwrap_or(now)),
            "missing_since": missing_since.filter(|_| is_verified),
        } };
        txn.records::<TenantDomain>(self.scope).update(doc! { "_id": self.domain }, update).await?;
        if is_verified != was_verified {
            let action = if is_verified { Action::DomainVerified } else { Action::DomainLost };
            Entry::new(action, before.id).record(txn, TenantScope::of_row(&before)).await?;
        }
        Ok(Some(status))
    }
}

impl NoteRecord {
    /// Platform-wide: nothing of the other tenant is told.
    async fn is_held_by_another(
        &self,
        txn: &mut Txn,
        domain: &TenantDomain,
    ) -> Result<bool, DbError> {
        let filter = doc! { "held_as": held(&domain.domain), "_id": { "$ne": domain.id } };
        Ok(txn.records::<TenantDomain>(PlatformScope).find(filter).await?.is_some())
    }
}

/// Looks whether a domain's record is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDomain {
    /// Which.
    pub domain: TenantDomainId,
}

impl Job for CheckDomain {
    const KIND: &'static str = "tenant_domain.check";
    const QUEUE: Queue = Queue::Maintenance;

    /// Whoever asks again and again waits for one look, which finds what is there by then.
    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: self.domain.to_string(), window: Window::UntilStarted })
    }
}

/// Has the records looked for of domains that were verified a while ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecheckDomains {}

impl Job for RecheckDomains {
    const KIND: &'static str = "tenant_domain.recheck";
    const QUEUE: Queue = Queue::Maintenance;

    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: String::new(), window: Window::UntilFinished })
    }
}

/// Invites somebody to the tenant that is open to their address' domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteByDomain {
    /// Whom.
    pub user: UserId,
    /// For how long after it was asked for it is not done again, in milliseconds.
    pub cooldown_ms: u64,
}

impl Job for InviteByDomain {
    const KIND: &'static str = "tenant_domain.invite";
    const QUEUE: Queue = Queue::Email;

    fn unique(&self) -> Option<Unique> {
        Some(Unique {
            key: self.user.to_string(),
            window: Window::For(Duration::from_millis(self.cooldown_ms)),
        })
    }
}

/// Somebody wants domains to be looked at.
#[derive(Debug)]
pub struct CheckDomains(pub Vec<(TenantId, TenantDomainId)>);

impl CheckDomains {
    /// These.
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

/// Somebody asks to be invited to a tenant that is open to their address.
#[derive(Debug, Clone, Copy)]
pub struct AskByDomain {
    /// The tenant.
    pub tenant: TenantId,
    /// Who.
    pub user: UserId,
    /// Asked for again within this time it is not done again.
    pub cooldown: Duration,
}

impl Change for AskByDomain {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage_invitation(txn, self.tenant, self.user, self.cooldown).await
    }
}

/// Has `user` invited to the tenant that is open to their address' domain, if one is; within
/// `cooldown` once at most.
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

/// Invites somebody to the tenant that is open to their address, on the word of whoever opened it.
pub struct InviteColleague<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// The tenant.
    pub scope: TenantScope,
    /// Whom.
    pub user: UserId,
    /// How.
    pub conditions: Conditions,
}

impl Change for InviteColleague<'_> {
    /// None where the tenant is not open to them any more.
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
        let actor = Actor { scope: self.scope, principal: by };
        invite_on_request(txn, self.key, actor, &user.email, role, self.conditions).await.map(Some)
    }
}
