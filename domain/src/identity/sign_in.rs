//! Signing in and out: from an address and a password to a session, and back.
//!
//! An attempt does the same work whether or not the address has an account, so neither the answer
//! nor its time tells who is a customer (OWASP ASVS 6.3.8). Only whoever knows the password learns
//! more: that the address still waits to be verified, or that the tenant is suspended.

use std::net::IpAddr;

use common::{
    crypto::{HashError, Hasher, Password, SealError},
    db::{Change, DbError, Store, TenantScope, Txn},
    email::Email,
    id::{SessionId, TenantId, UserId},
    sealed_email::SealedEmail,
};
use jobs::{Job, Queue, stage};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry},
    identity::{
        devices::KnownDevice,
        mfa::passkeys::Used,
        registrations::Registration,
        sessions::{Device, Lifetime, Session},
        users::User,
    },
    tenancy::{
        memberships::Membership,
        roles::RoleRef,
        tenants::{Tenant, TenantStatus},
    },
};

/// Someone asks to be signed in.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The address they give.
    pub email: Email,
    /// The password they give.
    pub password: Password,
    /// The tenant they want to work in; any of theirs when they do not say.
    pub tenant: Option<TenantId>,
    /// What their client tells of itself.
    pub device: Device,
    /// Whether they want to stay signed in.
    pub remember: bool,
    /// How long the session lasts.
    pub lifetime: Lifetime,
}

/// A tenant that someone belongs to, and as what.
#[derive(Debug, Clone)]
pub struct Belonging {
    /// The tenant.
    pub tenant: Tenant,
    /// What they may do there.
    pub role: RoleRef,
}

/// Someone who may sign in: what is left is to begin their session.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Begins it.
    pub begin: Begin,
    user: User,
    current: Belonging,
    belongings: Vec<Belonging>,
}

/// Someone who is signed in.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// Who.
    pub user: User,
    /// Until when, among others: under the rules of the tenant they work in.
    pub session: Session,
    /// Where they work now.
    pub current: Belonging,
    /// Everywhere they could work, this tenant included.
    pub belongings: Vec<Belonging>,
}

/// Why someone was not signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The address or the password is wrong: which of them is nobody's business.
    #[error("the address or the password is wrong")]
    InvalidCredentials,
    /// The password is right, and the address waits to be verified.
    #[error("the address has not been verified yet")]
    EmailNotVerified,
    /// What they gave is right, and a second factor is wanted beside it.
    #[error("a second factor is needed")]
    SecondFactorRequired,
    /// The second factor is not accepted.
    #[error("the second factor is wrong")]
    SecondFactorInvalid,
    /// The passkey, or the ceremony that it is shown in, is not good.
    #[error("the passkey is not accepted")]
    PasskeyInvalid,
    /// What was begun with the password is over.
    #[error("the password is to be given again")]
    ChallengeInvalid,
    /// The password is right, and an operator stopped the account.
    #[error("the account is disabled")]
    AccountDisabled,
    /// They do not belong to the tenant they asked for, or to none at all.
    #[error("there is no such tenant")]
    TenantNotFound,
    /// An operator stopped the tenant.
    #[error("the tenant is suspended")]
    TenantSuspended,
    /// The tenant is not worked in from their address.
    #[error("the tenant does not allow the address")]
    IpNotAllowed,
    /// Sessions in the tenant do not last for as long as theirs has.
    #[error("the session is too old for the tenant")]
    SessionTooOld,
    /// The password could not be checked.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// A secret could not be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Attempt {
    /// Checks the password, and that there is a tenant to work in.
    ///
    /// # Errors
    /// See [`SignInError`].
    pub async fn check(self, store: &Store, hasher: &Hasher) -> Result<Admitted, SignInError> {
        let user = authenticate(store, hasher, &self.email, self.password).await?;
        let Self { tenant, device, remember, lifetime, .. } = self;
        Admitted::new(store, user, tenant, Start { device, remember, lifetime }, false).await
    }
}

impl Admitted {
    async fn new(
        store: &Store,
        user: User,
        tenant: Option<TenantId>,
        start: Start,
        second_factor: bool,
    ) -> Result<Self, SignInError> {
        if user.disabled_at.is_some() {
            return Err(SignInError::AccountDisabled);
        }
        let belongings = belongings_of(store, user.id).await?;
        let current = choose(&belongings, tenant, start.device.address())?.clone();
        let begin = Begin::new(&user, second_factor, current.tenant.id, start);
        Ok(Self { begin, user, current, belongings })
    }

    /// Somebody who used a passkey, which is two factors in one: they had it, and their device saw
    /// them.
    ///
    /// # Errors
    /// See [`SignInError`].
    pub async fn by_passkey(
        store: &Store,
        passkey: &Used,
        tenant: Option<TenantId>,
        start: Start,
    ) -> Result<Self, SignInError> {
        let user = User::by_id(store, passkey.user()).await?.ok_or(SignInError::PasskeyInvalid)?;
        Self::new(store, user, tenant, start, true).await
    }

    /// Signed in by the session that was begun for them.
    pub fn signed_in(self, session: Session) -> SignedIn {
        let Self { user, current, belongings, .. } = self;
        SignedIn { user, session: session.under(&current.tenant.security), current, belongings }
    }
}

impl SignedIn {
    /// Whoever `session` belongs to, as things are now. They are where they may work already, so it
    /// is not asked where they come from.
    ///
    /// # Errors
    /// See [`SignInError`]; [`SignInError::TenantNotFound`] also where the account is gone.
    pub async fn resume(store: &Store, session: Session) -> Result<Self, SignInError> {
        let (user, belongings) = futures::try_join!(
            User::by_id(store, session.user_id),
            belongings_of(store, session.user_id)
        )?;
        let user = user.ok_or(SignInError::TenantNotFound)?;
        if user.disabled_at.is_some() {
            return Err(SignInError::AccountDisabled);
        }
        let current = in_use(&belongings, Some(session.tenant_id))?[0].clone();
        Ok(Self { user, session: session.under(&current.tenant.security), current, belongings })
    }
}

/// Both reads and one hash happen whatever is found.
async fn authenticate(
    store: &Store,
    hasher: &Hasher,
    email: &Email,
    password: Password,
) -> Result<User, SignInError> {
    let (user, registration) =
        futures::try_join!(User::by_email(store, email), Registration::newest_of(store, email))?;
    let waiting = registration.map(|registration| registration.password_hash);
    let hash = user.as_ref().map(|user| user.password_hash.clone()).or(waiting);
    if !hasher.verify(password.clone(), hash).await? {
        return Err(SignInError::InvalidCredentials);
    }
    let user = user.ok_or(SignInError::EmailNotVerified)?;
    if user.password_hash.is_outdated()
        && let Err(error) = renew_hash(store, hasher, &user, password).await
    {
        // The next sign-in tries again; this one has what it needs.
        tracing::warn!(%error, user = %user.id, "password_not_rehashed");
    }
    Ok(user)
}

/// Hashes a password as today's are, unless it was changed in the meantime.
async fn renew_hash(
    store: &Store,
    hasher: &Hasher,
    user: &User,
    password: Password,
) -> Result<(), SignInError> {
    let renewed = hasher.hash(password).await?;
    if User::rehash(store, user.id, &user.password_hash, &renewed).await? {
        tracing::info!(user = %user.id, "password_rehashed");
    }
    Ok(())
}

/// Everywhere that someone may work.
///
/// # Errors
/// When the store fails.
pub async fn belongings_of(store: &Store, user: UserId) -> Result<Vec<Belonging>, DbError> {
    let memberships = Membership::all_of(store, user).await?;
    let ids: Vec<TenantId> = memberships.iter().map(|membership| membership.tenant_id).collect();
    let tenants = Tenant::by_ids(store, &ids).await?;
    let belonging = |membership: &Membership| {
        let tenant = tenants.iter().find(|tenant| tenant.id == membership.tenant_id)?;
        Some(Belonging { tenant: tenant.clone(), role: membership.role })
    };
    Ok(memberships.iter().filter_map(belonging).collect())
}

/// The tenant asked for, or all, less those that are not in use. Never empty.
fn in_use(
    belongings: &[Belonging],
    wanted: Option<TenantId>,
) -> Result<Vec<&Belonging>, SignInError> {
    let mut eligible = belongings
        .iter()
        .filter(|belonging| wanted.is_none_or(|wanted| belonging.tenant.id == wanted))
        .peekable();
    eligible.peek().ok_or(SignInError::TenantNotFound)?;
    let active: Vec<&Belonging> =
        eligible.filter(|belonging| belonging.tenant.status == TenantStatus::Active).collect();
    if active.is_empty() { Err(SignInError::TenantSuspended) } else { Ok(active) }
}

/// The tenant asked for, or the first that is in use and is worked in from `address`.
fn choose(
    belongings: &[Belonging],
    wanted: Option<TenantId>,
    address: Option<IpAddr>,
) -> Result<&Belonging, SignInError> {
    let mut active = in_use(belongings, wanted)?.into_iter();
    active
        .find(|belonging| belonging.tenant.security.ip_allowlist.admits(address))
        .ok_or(SignInError::IpNotAllowed)
}

/// How a session begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// What their client tells of itself.
    pub device: Device,
    /// Whether they want to stay signed in.
    pub remember: bool,
    /// How long the session lasts.
    pub lifetime: Lifetime,
}

/// Begins a session. Its person is mailed where they never signed in from that device on that
/// network before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begin {
    pub(crate) user: UserId,
    pub(crate) email_norm: String,
    pub(crate) password_set_at: Option<DateTime>,
    /// Whether a second factor was shown.
    pub(crate) second_factor: bool,
    pub(crate) tenant: TenantId,
    pub(crate) start: Start,
}

impl Begin {
    /// Of someone who has shown that the account, as it was then, is theirs.
    pub(crate) fn new(user: &User, second_factor: bool, tenant: TenantId, start: Start) -> Self {
        let (email_norm, password_set_at) = (user.email_norm.clone(), user.password_set_at);
        Self { user: user.id, email_norm, password_set_at, second_factor, tenant, start }
    }
}

impl Change for Begin {
    type Output = Session;
    type Error = SignInError;

    /// Refused as [`SignInError::InvalidCredentials`] when another password was set since it was
    /// checked or the account has another address, as [`SignInError::SecondFactorRequired`] when
    /// the person has a second factor that was not shown, as [`SignInError::AccountDisabled`] when
    /// the account was stopped, and as [`SignInError::TenantNotFound`] when they are no member any
    /// more.
    async fn apply(&self, txn: &mut Txn) -> Result<Session, SignInError> {
        let user =
            User::note_sign_in(txn, self.user, &self.email_norm, self.password_set_at).await?;
        let user = user.ok_or(SignInError::InvalidCredentials)?;
        if user.disabled_at.is_some() {
            return Err(SignInError::AccountDisabled);
        }
        if user.second_factor_since.is_some() && !self.second_factor {
            return Err(SignInError::SecondFactorRequired);
        }
        let membership = Membership::enter(txn, self.tenant, self.user).await?;
        membership.ok_or(SignInError::TenantNotFound)?;
        let Start { device, remember, lifetime } = &self.start;
        let is_new_device = KnownDevice::note(txn, self.user, device).await?;
        let session =
            Session::create(txn, self.user, self.tenant, device, *lifetime, *remember).await?;
        Entry::new(Action::SessionCreated, session.id)
            .by_user(&user)
            .record(txn, TenantScope::of_row(&session))
            .await?;
        if is_new_device {
            stage(txn, Some(self.tenant), &SendNewSignIn { session: session.id }).await?;
        }
        Ok(session)
    }
}

/// Signing out: ends a session. Ending it twice is as good as once.
#[derive(Debug, Clone, Copy)]
pub struct SignOut {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// The tenant that the caller is signed in to.
    pub scope: TenantScope,
}

impl Change for SignOut {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        if Session::revoke(txn, self.session).await? {
            Entry::new(Action::SessionRevoked, self.session)
                .by(self.user)
                .record(txn, self.scope)
                .await?;
        }
        Ok(())
    }
}

/// Ends one of a person's own sessions; tells whether it was not over.
#[derive(Debug, Clone, Copy)]
pub struct EndSession {
    /// The session.
    pub session: SessionId,
    /// Whose it is to be.
    pub user: UserId,
    /// The tenant that the caller is signed in to.
    pub scope: TenantScope,
}

impl Change for EndSession {
    type Output = bool;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<bool, DbError> {
        let now = txn.clock().now();
        let session = Session::within(txn, self.session).await?;
        if !session.is_some_and(|session| session.user_id == self.user && session.is_live(now)) {
            return Ok(false);
        }
        Session::revoke(txn, self.session).await?;
        Entry::new(Action::SessionRevoked, self.session)
            .by(self.user)
            .record(txn, self.scope)
            .await?;
        Ok(true)
    }
}

/// Ends sessions of one person but the one they keep, if any.
#[derive(Debug, Clone, Copy)]
pub struct SignOutAll {
    /// Whose.
    pub user: UserId,
    /// The tenant that the caller is signed in to.
    pub scope: TenantScope,
    /// The session that goes on.
    pub kept: Option<SessionId>,
}

impl Change for SignOutAll {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        if Session::revoke_all(txn, self.user, self.kept).await? > 0 {
            Entry::new(Action::SessionsRevoked, self.user)
                .by(self.user)
                .record(txn, self.scope)
                .await?;
        }
        Ok(())
    }
}

/// Goes on in another tenant of one's own.
#[derive(Debug, Clone, Copy)]
pub struct SwitchTenant {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// Where to go.
    pub tenant: TenantId,
    /// From which address.
    pub address: Option<IpAddr>,
}

impl Change for SwitchTenant {
    type Output = Session;
    type Error = SignInError;

    async fn apply(&self, txn: &mut Txn) -> Result<Session, SignInError> {
        let membership = Membership::enter(txn, self.tenant, self.user).await?;
        let membership = membership.ok_or(SignInError::TenantNotFound)?;
        let tenant = Tenant::within(txn, TenantScope::of_row(&membership)).await?;
        let tenant = tenant.ok_or(SignInError::TenantNotFound)?;
        if tenant.status != TenantStatus::Active {
            return Err(SignInError::TenantSuspended);
        }
        if !tenant.security.ip_allowlist.admits(self.address) {
            return Err(SignInError::IpNotAllowed);
        }
        let now = txn.clock().now();
        let session = Session::move_to(txn, self.session, self.tenant)
            .await?
            .ok_or(SignInError::InvalidCredentials)?;
        let session = session.under(&tenant.security);
        if !session.is_live(now) {
            return Err(SignInError::SessionTooOld);
        }
        Entry::new(Action::SessionTenantSwitched, self.session)
            .by(self.user)
            .record(txn, TenantScope::of_row(&session))
            .await?;
        Ok(session)
    }
}

/// Tells a person that they, or somebody else, signed in from where they never did before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendNewSignIn {
    /// The session.
    pub session: SessionId,
}

impl Job for SendNewSignIn {
    const KIND: &'static str = "session.send_new_sign_in";
    const QUEUE: Queue = Queue::Email;
}

/// Tells whoever owns an address, if anybody does, that signing in to their account is throttled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendThrottled {
    /// The address.
    pub address: SealedEmail,
}

impl Job for SendThrottled {
    const KIND: &'static str = "session.send_throttled";
    const QUEUE: Queue = Queue::Email;
}

/// Signing in to the account of an address became throttled.
pub struct Throttled {
    /// The address, whether or not it has an account.
    pub address: SealedEmail,
}

impl Change for Throttled {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, None, &SendThrottled { address: self.address.clone() }).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use common::clock::Clock;
    use mongodb::bson::Document;

    use super::*;
    use crate::tenancy::{roles::Role, tenant_security::Security, tenants::Slug};

    fn belonging(status: TenantStatus) -> Belonging {
        let name: common::name::Name = "Demo".parse().unwrap();
        let tenant = Tenant {
            id: Clock::system().id(),
            slug: Slug::suggested_by(&name),
            name,
            status,
            plan: "free".to_owned(),
            settings: Document::new(),
            branding: Document::new(),
            security: Security::default(),
            created_at: DateTime::from_millis(0),
            members_version: 0,
        };
        Belonging { tenant, role: Role::Member.into() }
    }

    #[test]
    fn whoever_does_not_say_works_in_their_first_tenant_in_use() {
        let mine = [
            belonging(TenantStatus::Suspended),
            belonging(TenantStatus::Active),
            belonging(TenantStatus::Active),
        ];
        assert_eq!(choose(&mine, None, None).unwrap().tenant.id, mine[1].tenant.id);
        assert_eq!(
            choose(&mine, Some(mine[2].tenant.id), None).unwrap().tenant.id,
            mine[2].tenant.id
        );
    }

    #[test]
    fn a_suspended_tenant_and_one_of_others_are_refused_each_in_its_way() {
        let mine = [belonging(TenantStatus::Suspended)];
        assert!(matches!(choose(&mine, None, None), Err(SignInError::TenantSuspended)));
        assert!(matches!(
            choose(&mine, Some(mine[0].tenant.id), None),
            Err(SignInError::TenantSuspended)
        ));
        assert!(matches!(
            choose(&mine, Some(Clock::system().id()), None),
            Err(SignInError::TenantNotFound)
        ));
        assert!(matches!(choose(&[], None, None), Err(SignInError::TenantNotFound)));
    }

    #[test]
    fn a_tenant_that_is_not_worked_in_from_here_is_refused_when_asked_for_and_else_passed_over() {
        let mut mine = [belonging(TenantStatus::Active), belonging(TenantStatus::Active)];
        mine[0].tenant.security.ip_allowlist =
            ["10.0.0.0/8"].iter().map(|text| text.parse().unwrap()).collect();
        let (inside, outside) =
            (Some("10.0.0.1".parse().unwrap()), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(choose(&mine, None, inside).unwrap().tenant.id, mine[0].tenant.id);
        assert_eq!(choose(&mine, None, outside).unwrap().tenant.id, mine[1].tenant.id);
        assert!(matches!(
            choose(&mine, Some(mine[0].tenant.id), outside),
            Err(SignInError::IpNotAllowed)
        ));
        assert!(matches!(choose(&mine[..1], None, None), Err(SignInError::IpNotAllowed)));
    }
}
