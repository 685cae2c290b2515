//! Signing in and out: from an email address and a password to a session, and back.
//!
//! An attempt does the same work whether or not the email address has an account, so neither the
//! response nor its timing reveals who is a customer (OWASP ASVS 6.3.8). Only a caller who knows
//! the password learns more: that the email address is not verified yet, or that the tenant is
//! suspended.

use std::{net::IpAddr, time::Duration};

use common::{
    crypto::{HashError, Hasher, Password, SealError, Verdict},
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
    identity::{devices::KnownDevice, mfa::passkeys::Used, registrations::Registration},
    people::{
        sessions::{Device, Lifetime, Session},
        users::User,
    },
    queues,
    tenancy::{
        belongings::Belonging,
        memberships::Membership,
        tenants::{Tenant, TenantStatus},
    },
};

/// A request to sign in.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The email address given.
    pub email: Email,
    /// The password given.
    pub password: Password,
    /// The tenant to work in; by default any of the user's, and none if they belong to none.
    pub tenant: Option<TenantId>,
    /// What is known of the client.
    pub device: Device,
    /// Whether the user asked to stay signed in.
    pub remember: bool,
    /// How long the session lasts.
    pub lifetime: Lifetime,
}

/// A user who may sign in; their session is yet to begin.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Begins the session.
    pub begin: Begin,
    user: User,
    current: Option<Belonging>,
    belongings: Vec<Belonging>,
}

/// A signed-in user.
#[derive(Debug, Clone)]
pub struct SignedIn {
    pub user: User,
    /// Their session, limited by the rules of its tenant.
    pub session: Session,
    /// The tenant they are working in, if any.
    pub current: Option<Belonging>,
    /// The tenants they could work in: the first 100 that they joined.
    pub belongings: Vec<Belonging>,
}

/// Why a user was not signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The email address or the password is wrong; callers do not learn which.
    #[error("the email address or the password is wrong")]
    InvalidCredentials,
    /// The password is right, but the email address is not verified yet.
    #[error("the email address has not been verified yet")]
    EmailNotVerified,
    /// The credentials are right, but a second factor is required as well.
    #[error("a second factor is required")]
    SecondFactorRequired,
    /// The second factor was not accepted.
    #[error("the second factor is wrong")]
    SecondFactorInvalid,
    /// The passkey, or its ceremony, was not accepted.
    #[error("the passkey was not accepted")]
    PasskeyInvalid,
    /// The challenge that began with the password is over.
    #[error("the sign-in has expired; the password is required again")]
    ChallengeInvalid,
    /// Too many wrong codes were presented for the account, until after this time.
    #[error("too many wrong codes of second factors")]
    TooManyCodes(Duration),
    /// The password is right, but an operator disabled the account.
    #[error("the account is disabled")]
    AccountDisabled,
    /// The user does not belong to the requested tenant.
    #[error("the tenant does not exist")]
    TenantNotFound,
    /// An operator suspended the tenant.
    #[error("the tenant is suspended")]
    TenantSuspended,
    /// The tenant does not allow access from the client's IP address.
    #[error("the tenant does not allow access from this IP address")]
    IpNotAllowed,
    /// The session is older than the tenant allows.
    #[error("the session is too old for the tenant")]
    SessionTooOld,
    /// The password could not be verified.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// A secret could not be encrypted or decrypted.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Attempt {
    /// Verifies the password, and chooses a tenant to work in.
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
        let belongings = Belonging::first_of(store, user.id).await?;
        let requested = requested(store, user.id, tenant, &belongings).await?;
        let eligible = if tenant.is_some() { requested.as_slice() } else { &belongings };
        let current = choose(eligible, tenant, start.device.address())?.cloned();
        let working_in = current.as_ref().map(|current| current.tenant.id);
        let begin = Begin::new(&user, second_factor, working_in, start);
        Ok(Self { begin, user, current, belongings })
    }

    /// Admits a user with a passkey, which counts as two factors: possession, and verification of
    /// the user by the device.
    pub async fn by_passkey(
        store: &Store,
        passkey: &Used,
        tenant: Option<TenantId>,
        start: Start,
    ) -> Result<Self, SignInError> {
        let user = User::by_id(store, passkey.user()).await?.ok_or(SignInError::PasskeyInvalid)?;
        Self::new(store, user, tenant, start, true).await
    }

    /// The signed-in user of the session that was begun.
    pub fn signed_in(self, session: Session) -> SignedIn {
        let Self { user, current, belongings, .. } = self;
        SignedIn::new(user, session, current, belongings)
    }
}

impl SignedIn {
    /// The user of an existing session, as things are now. Their IP address was already checked.
    /// Fails with [`SignInError::TenantNotFound`] also if the account no longer exists.
    pub async fn resume(store: &Store, session: Session) -> Result<Self, SignInError> {
        let (user, belongings) = futures::try_join!(
            User::by_id(store, session.user_id),
            Belonging::first_of(store, session.user_id)
        )?;
        let user = user.ok_or(SignInError::TenantNotFound)?;
        if user.disabled_at.is_some() {
            return Err(SignInError::AccountDisabled);
        }
        let current = match session.tenant_id {
            Some(tenant) => {
                let found = requested(store, user.id, Some(tenant), &belongings).await?;
                Some(in_use(found.as_slice(), Some(tenant))?[0].clone())
            }
            None => None,
        };
        Ok(Self::new(user, session, current, belongings))
    }

    fn new(
        user: User,
        session: Session,
        current: Option<Belonging>,
        belongings: Vec<Belonging>,
    ) -> Self {
        let session = match &current {
            Some(current) => current.tenant.security.limit(session),
            None => session,
        };
        Self { user, session, current, belongings }
    }
}

/// Both queries and one hash happen in every case.
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
    let verdict = hasher.verify(password.clone(), hash).await?;
    if !verdict.is_right() {
        return Err(SignInError::InvalidCredentials);
    }
    let user = user.ok_or(SignInError::EmailNotVerified)?;
    if verdict == Verdict::Outdated
        && let Err(error) = renew_hash(store, hasher, &user, password).await
    {
        // The next sign-in retries; this one need not wait for it.
        tracing::warn!(%error, user = %user.id, "password_not_rehashed");
    }
    Ok(user)
}

/// Replaces the hash of a password by one with the current parameters, unless the password was
/// changed in the meantime.
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

/// The tenant that a user requests, if any, and if they belong to it. It may be beyond those that are
/// `listed`.
async fn requested(
    store: &Store,
    user: UserId,
    tenant: Option<TenantId>,
    listed: &[Belonging],
) -> Result<Option<Belonging>, DbError> {
    let Some(tenant) = tenant else { return Ok(None) };
    match listed.iter().find(|belonging| belonging.tenant.id == tenant) {
        Some(found) => Ok(Some(found.clone())),
        None => Belonging::of(store, user, tenant).await,
    }
}

/// The requested tenant, or all, without those that are suspended. Never empty.
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

/// The requested tenant, or the first active one that allows `address`; none if none is requested
/// and they belong to none.
fn choose(
    belongings: &[Belonging],
    wanted: Option<TenantId>,
    address: Option<IpAddr>,
) -> Result<Option<&Belonging>, SignInError> {
    if belongings.is_empty() && wanted.is_none() {
        return Ok(None);
    }
    let mut active = in_use(belongings, wanted)?.into_iter();
    active
        .find(|belonging| belonging.tenant.security.admits(belonging.role, address))
        .map(Some)
        .ok_or(SignInError::IpNotAllowed)
}

/// How a session begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// What is known of the client.
    pub device: Device,
    /// Whether the user asked to stay signed in.
    pub remember: bool,
    /// How long the session lasts.
    pub lifetime: Lifetime,
}

/// Begins a session. There is no other way to begin one. Notifies the user if they never signed in
/// from this device on this network before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begin {
    pub(crate) user: UserId,
    pub(crate) email_norm: String,
    pub(crate) password_set_at: Option<DateTime>,
    /// Whether a second factor was presented.
    pub(crate) second_factor: bool,
    /// The tenant to work in, if any.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) start: Start,
}

impl Begin {
    /// For a user who has proven that the account, in its present state, is theirs.
    pub(crate) fn new(
        user: &User,
        second_factor: bool,
        tenant: Option<TenantId>,
        start: Start,
    ) -> Self {
        let (email_norm, password_set_at) = (user.email_norm.clone(), user.password_set_at);
        Self { user: user.id, email_norm, password_set_at, second_factor, tenant, start }
    }

    /// Begins the session. One that continues another (`before`) proves nothing new: it keeps the
    /// time of authentication, lasts no longer, and is remembered only if the other is.
    ///
    /// Fails with [`SignInError::InvalidCredentials`] if another password was set since the check
    /// or the account has another email address, with [`SignInError::SecondFactorRequired`] if the
    /// user has a second factor that was not presented, with [`SignInError::AccountDisabled`] if
    /// the account was disabled, and with [`SignInError::TenantNotFound`] if they are no longer a
    /// member.
    #[expect(clippy::disallowed_methods, reason = "the only place where sessions begin")]
    pub(crate) async fn session(
        &self,
        txn: &mut Txn,
        before: Option<&Session>,
    ) -> Result<Session, SignInError> {
        let user =
            User::note_sign_in(txn, self.user, &self.email_norm, self.password_set_at).await?;
        let user = user.ok_or(SignInError::InvalidCredentials)?;
        if user.disabled_at.is_some() {
            return Err(SignInError::AccountDisabled);
        }
        if user.second_factor_since.is_some() && !self.second_factor {
            return Err(SignInError::SecondFactorRequired);
        }
        if let Some(tenant) = self.tenant {
            let membership = Membership::enter(txn, tenant, self.user).await?;
            membership.ok_or(SignInError::TenantNotFound)?;
        }
        let Start { device, remember, lifetime } = &self.start;
        let is_new_device = KnownDevice::note(txn, self.user, device, self.second_factor).await?;
        let remember = *remember && before.is_none_or(|before| before.remembered);
        let session =
            Session::create(txn, self.user, self.tenant, device, *lifetime, remember).await?;
        let session = match before {
            Some(before) => session.follow(txn, before).await?,
            None => session,
        };
        Entry::new(Action::SessionCreated, session.id)
            .by_named(user.id, &user.name)
            .record_in(txn, TenantScope::of_row_if_any(&session))
            .await?;
        if is_new_device {
            stage(txn, self.tenant, &SendNewSignIn { session: session.id }).await?;
        }
        Ok(session)
    }
}

impl Change for Begin {
    type Output = Session;
    type Error = SignInError;

    /// Fails as `Begin::session` does.
    async fn apply(&self, txn: &mut Txn) -> Result<Session, SignInError> {
        self.session(txn, None).await
    }
}

/// Moves a session to another tenant of its user.
#[derive(Debug, Clone, Copy)]
pub struct SwitchTenant {
    pub session: SessionId,
    /// The owner of the session.
    pub user: UserId,
    /// The tenant to move to.
    pub tenant: TenantId,
    /// IP address of the client.
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
        if !tenant.security.admits(membership.role, self.address) {
            return Err(SignInError::IpNotAllowed);
        }
        let now = txn.clock().now();
        let session = Session::move_to(txn, self.session, self.tenant)
            .await?
            .ok_or(SignInError::InvalidCredentials)?;
        let session = tenant.security.limit(session);
        if !session.is_live(now) {
            return Err(SignInError::SessionTooOld);
        }
        Entry::new(Action::SessionTenantSwitched, self.session)
            .by(self.user)
            .record(txn, TenantScope::of_row(&membership))
            .await?;
        Ok(session)
    }
}

/// Notifies a user of a sign-in from a device or network that is new to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendNewSignIn {
    pub session: SessionId,
}

impl Job for SendNewSignIn {
    const KIND: &'static str = "session.send_new_sign_in";
    const QUEUE: Queue = queues::EMAIL;
}

/// Notifies the owner of an email address, if any, that sign-ins to their account are throttled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendThrottled {
    pub address: SealedEmail,
}

impl Job for SendThrottled {
    const KIND: &'static str = "session.send_throttled";
    const QUEUE: Queue = queues::EMAIL;
}

/// Records that sign-ins to the account of an email address are now throttled.
pub struct Throttled {
    /// The email address, which may have no account.
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
    fn the_first_active_tenant_is_the_default() {
        let mine = [
            belonging(TenantStatus::Suspended),
            belonging(TenantStatus::Active),
            belonging(TenantStatus::Active),
        ];
        let chosen = |wanted| choose(&mine, wanted, None).unwrap().map(|it| it.tenant.id);
        assert_eq!(chosen(None), Some(mine[1].tenant.id));
        assert_eq!(chosen(Some(mine[2].tenant.id)), Some(mine[2].tenant.id));
    }

    #[test]
    fn suspended_and_foreign_tenants_are_rejected_differently() {
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
    }

    #[test]
    fn who_belongs_to_no_tenant_works_in_none_unless_they_request_one() {
        assert!(matches!(choose(&[], None, None), Ok(None)));
        let foreign = Some(Clock::system().id());
        assert!(matches!(choose(&[], foreign, None), Err(SignInError::TenantNotFound)));
    }

    #[test]
    fn a_tenant_that_disallows_the_ip_address_is_rejected_or_skipped() {
        let mut mine = [belonging(TenantStatus::Active), belonging(TenantStatus::Active)];
        mine[0].tenant.security.ip_allowlist =
            ["10.0.0.0/8"].iter().map(|text| text.parse().unwrap()).collect();
        let (inside, outside) =
            (Some("10.0.0.1".parse().unwrap()), Some("192.0.2.1".parse().unwrap()));
        let chosen = |address| choose(&mine, None, address).unwrap().map(|it| it.tenant.id);
        assert_eq!(chosen(inside), Some(mine[0].tenant.id));
        assert_eq!(chosen(outside), Some(mine[1].tenant.id));
        assert!(matches!(
            choose(&mine, Some(mine[0].tenant.id), outside),
            Err(SignInError::IpNotAllowed)
        ));
        assert!(matches!(choose(&mine[..1], None, None), Err(SignInError::IpNotAllowed)));
    }
}
