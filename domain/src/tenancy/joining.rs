//! Joining a tenant: from an invitation's link to a membership.
//!
//! Whoever follows the link has shown that the mailbox is theirs, so an account that is made on the
//! way needs no other verification. An account that exists is not opened by the link alone: its
//! person is signed in, or gives its password.

use std::{net::IpAddr, sync::Arc, time::Duration};

use common::{
    crypto::{HashError, Hasher, InvalidPassword, Password, PasswordHash},
    db::{Change, DbError, Store, Txn, is_duplicate},
    name::Name,
    origin::Origin,
};
use jobs::Jobs;

use crate::{
    activity::{Action, Entry},
    identity::{
        accounts::NewAccount,
        passwords::{Context, NotSet, Policy, TooWeak},
        sessions::Session,
        sign_in::{Begin, SignInError, Start},
        users::{self, User},
    },
    tenancy::{
        invitations::Invitation,
        memberships::Membership,
        tenants::{Tenant, TenantStatus},
    },
};

/// Who follows an invitation's link.
#[derive(Debug)]
pub enum Guest {
    /// The invited person, signed in by a session.
    SignedIn(Box<User>, Box<Session>),
    /// Somebody who has yet to show by its password that the account of the invited address is
    /// theirs.
    Claimant(Box<User>),
    /// Somebody whose address has no account.
    Newcomer,
}

/// Someone who accepts an invitation.
#[derive(Debug)]
pub struct Joining {
    /// The invitation.
    pub invitation: Invitation,
    /// Who they are.
    pub guest: Guest,
    /// What a new account's person is called.
    pub name: Option<Name>,
    /// The password of their account, or of the one to be made.
    pub password: Option<Password>,
    /// The session that they begin, if they do.
    pub start: Option<Start>,
    /// Where they are.
    pub address: Option<IpAddr>,
    /// Whose account is made is invited by their domain once in this time at most.
    pub cooldown: Duration,
}

/// Someone who has joined.
#[derive(Debug)]
pub struct Joined {
    /// The tenant.
    pub tenant: Tenant,
    /// The session that was begun.
    pub session: Option<Session>,
}

/// Why somebody did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The link is wrong, used or expired, or the invitation was taken back: which is nobody's
    /// business.
    #[error("the link is not valid, was used already, or has expired")]
    TokenInvalid,
    /// Somebody else is signed in than the one who is invited.
    #[error("the invitation is for somebody else")]
    NotYours,
    /// The password of the account is wrong.
    #[error("the password is wrong")]
    InvalidCredentials,
    /// They are not signed in any more.
    #[error("the session is over")]
    SignedOut,
    /// The account has a second factor, so its person signs in first.
    #[error("a second factor is needed")]
    SecondFactorRequired,
    /// What is needed of them, and was not told.
    #[error("something is missing")]
    Missing {
        /// The name.
        name: bool,
        /// The password.
        password: bool,
    },
    /// The password of a new account is not acceptable.
    #[error(transparent)]
    Password(#[from] InvalidPassword),
    /// The password of a new account is easy to guess, or known.
    #[error(transparent)]
    TooWeak(TooWeak),
    /// An operator stopped their account.
    #[error("the account is disabled")]
    AccountDisabled,
    /// They are a member already.
    #[error("they are a member already")]
    AlreadyMember,
    /// An operator stopped the tenant.
    #[error("the tenant is suspended")]
    TenantSuspended,
    /// The tenant is not worked in from their address.
    #[error("the tenant does not allow the address")]
    IpNotAllowed,
    /// The tenant invites nobody any more who has an address such as theirs.
    #[error("the tenant does not invite such addresses any more")]
    DomainNotAllowed,
    /// An account of the address was made at the same moment.
    #[error("an account of the address was made meanwhile")]
    AccountMade,
    /// The password could not be hashed or checked.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<SignInError> for JoinError {
    /// A session is only ever refused to somebody whose password is another one by now, or who was
    /// stopped.
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Db(error) => Self::Db(error),
            SignInError::Hash(error) => Self::Hash(error),
            SignInError::SecondFactorRequired => Self::SecondFactorRequired,
            SignInError::AccountDisabled => Self::AccountDisabled,
            _ => Self::InvalidCredentials,
        }
    }
}

impl Guest {
    /// Who follows the link of `invitation`, signed in or not.
    ///
    /// # Errors
    /// [`JoinError::NotYours`] when somebody else is signed in, [`JoinError::Db`] when the store
    /// fails.
    pub async fn of(
        store: &Store,
        invitation: &Invitation,
        signed_in: Option<(&User, &Session)>,
    ) -> Result<Self, JoinError> {
        if let Some((user, session)) = signed_in {
            let is_invited = user.email_norm == invitation.email_norm;
            return if is_invited {
                Ok(Self::SignedIn(Box::new(user.clone()), Box::new(session.clone())))
            } else {
                Err(JoinError::NotYours)
            };
        }
        let account = User::by_email(store, &invitation.email).await?;
        Ok(account.map_or(Self::Newcomer, |user| Self::Claimant(Box::new(user))))
    }
}

impl Joining {
    /// Makes them a member, with an account where they have none.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub async fn join(
        self,
        jobs: &Jobs,
        origin: &Origin,
        hasher: &Hasher,
        policy: &Arc<Policy>,
    ) -> Result<Joined, JoinError> {
        let Self { invitation, guest, name, password, start, address, cooldown } = self;
        let missing = |name, password| JoinError::Missing { name, password };
        let person = match (guest, name, password) {
            (Guest::SignedIn(user, session), ..) => {
                Person::Known { user, signed_in: Some(session) }
            }
            (Guest::Claimant(user), _, Some(password)) => claimed(hasher, user, password).await?,
            (Guest::Claimant(_), _, None) => return Err(missing(false, true)),
            (Guest::Newcomer, Some(name), Some(password)) => {
                newcomer(jobs.store(), hasher, policy, &invitation, name, password).await?
            }
            (Guest::Newcomer, name, password) => {
                return Err(missing(name.is_none(), password.is_none()));
            }
        };
        jobs.commit(origin, &Accept { invitation, person, start, address, cooldown }).await
    }
}

async fn claimed(
    hasher: &Hasher,
    user: Box<User>,
    password: Password,
) -> Result<Person, JoinError> {
    let is_right = hasher.verify(password, Some(user.password_hash.clone())).await?;
    if is_right {
        Ok(Person::Known { user, signed_in: None })
    } else {
        Err(JoinError::InvalidCredentials)
    }
}

async fn newcomer(
    store: &Store,
    hasher: &Hasher,
    policy: &Arc<Policy>,
    invitation: &Invitation,
    name: Name,
    password: Password,
) -> Result<Person, JoinError> {
    let tenant = Tenant::of(store, invitation.scope()).await?.ok_or(JoinError::TokenInvalid)?;
    let about =
        Context::default().with_email(&invitation.email).with_name(&name).with_tenant(&tenant);
    let password_hash =
        policy.hash(hasher, password.to_be_set()?, about).await.map_err(|error| match error {
            NotSet::Invalid(refusal) => JoinError::Password(refusal),
            NotSet::TooWeak(reason) => JoinError::TooWeak(reason),
            NotSet::Hash(error) => JoinError::Hash(error),
        })?;
    Ok(Person::New { name, password_hash })
}

/// Who joins.
#[derive(Debug)]
enum Person {
    /// Somebody with an account, as it was when they showed that it is theirs.
    Known {
        user: Box<User>,
        /// By which session they are signed in. Then they showed their second factor, if they have
        /// one.
        signed_in: Option<Box<Session>>,
    },
    /// Somebody who gets one.
    New { name: Name, password_hash: PasswordHash },
}

/// Uses an invitation up.
#[derive(Debug)]
struct Accept {
    invitation: Invitation,
    person: Person,
    start: Option<Start>,
    address: Option<IpAddr>,
    cooldown: Duration,
}

impl Change for Accept {
    type Output = Joined;
    type Error = JoinError;

    async fn apply(&self, txn: &mut Txn) -> Result<Joined, JoinError> {
        let scope = self.invitation.scope();
        let tenant = Tenant::hold(txn, scope).await?.ok_or(JoinError::TokenInvalid)?;
        let invitation = self.invitation.take(txn).await?.ok_or(JoinError::TokenInvalid)?;
        if tenant.status != TenantStatus::Active {
            return Err(JoinError::TenantSuspended);
        }
        if !tenant.security.ip_allowlist.admits(self.address) {
            return Err(JoinError::IpNotAllowed);
        }
        if !tenant.security.allowed_email_domains.admit(&invitation.email) {
            return Err(JoinError::DomainNotAllowed);
        }
        let given = invitation.vouched(txn).await?.ok_or(JoinError::TokenInvalid)?;
        let user = self.user(txn, &invitation).await?;
        let signed_in = self.signed_in(txn).await?;
        if signed_in.is_none() && user.second_factor_since.is_some() {
            return Err(JoinError::SecondFactorRequired);
        }
        if Membership::within(txn, scope, user.id).await?.is_some() {
            return Err(JoinError::AlreadyMember);
        }
        Membership::create(txn, scope, user.id, given.role).await?;
        Entry::new(Action::MemberJoined, invitation.id).by_user(&user).record(txn, scope).await?;
        let session = match &self.start {
            Some(start) => {
                let session = Begin::new(&user, signed_in.is_some(), tenant.id, start.clone())
                    .apply(txn)
                    .await?;
                Some(match &signed_in {
                    // It was no proof of anything: the new session is as good as the one that it
                    // comes from.
                    Some(before) => session.follow(txn, before).await?,
                    None => session,
                })
            }
            None => None,
        };
        Ok(Joined { tenant, session })
    }
}

impl Accept {
    /// Their session, if they are signed in by one, which is not over.
    async fn signed_in(&self, txn: &mut Txn) -> Result<Option<Session>, JoinError> {
        let Person::Known { user, signed_in: Some(session) } = &self.person else {
            return Ok(None);
        };
        let live = Session::act(txn, session.id, user.id, session.tenant_id).await?;
        live.map(Some).ok_or(JoinError::SignedOut)
    }

    /// Their account, made where there is none.
    async fn user(&self, txn: &mut Txn, invitation: &Invitation) -> Result<User, JoinError> {
        let (name, password_hash) = match &self.person {
            // An account that is gone meanwhile is nobody's.
            Person::Known { user, signed_in } => {
                let current =
                    User::within(txn, user.id).await?.ok_or(JoinError::InvalidCredentials)?;
                if current.disabled_at.is_some() {
                    return Err(JoinError::AccountDisabled);
                }
                // Their address may be another one by now, and another's than the invited one.
                let is_invited = current.email_norm == invitation.email_norm;
                if !is_invited {
                    return Err(JoinError::NotYours);
                }
                // Whoever gave a password gave that of the account as it was then.
                return Ok(if signed_in.is_some() { current } else { User::clone(user) });
            }
            Person::New { name, password_hash } => (name, password_hash),
        };
        let account = NewAccount {
            email: invitation.email.clone(),
            name: name.clone(),
            password_hash: password_hash.clone(),
        };
        account.create(txn, self.cooldown).await.map_err(|error| match error {
            error if is_duplicate(&error, users::EMAIL_INDEX) => JoinError::AccountMade,
            error => error.into(),
        })
    }
}
