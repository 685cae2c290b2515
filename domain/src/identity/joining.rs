//! Joining a tenant: from the link of an invitation to a membership.
//!
//! Following the link proves ownership of the mailbox, so an account created on the way needs no
//! other verification. The link alone does not give access to an existing account: its owner must
//! be signed in, or give its password.

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
        sign_in::{Begin, SignInError, Start},
    },
    people::{
        sessions::Session,
        users::{self, User},
    },
    tenancy::{
        invitations::Invitation,
        mail_budget::MailBudget,
        memberships::Membership,
        tenants::{Tenant, TenantStatus},
    },
};

/// A person who follows the link of an invitation.
#[derive(Debug)]
pub enum Guest {
    /// The invited person, who is signed in.
    SignedIn(Box<User>, Box<Session>),
    /// A person who has yet to prove, with its password, that the account of the invited email
    /// address is theirs.
    Claimant(Box<User>),
    /// A person without an account.
    Newcomer,
}

/// A person who accepts an invitation.
#[derive(Debug)]
pub struct Joining {
    pub invitation: Invitation,
    pub guest: Guest,
    /// Name for a new account.
    pub name: Option<Name>,
    /// Password of the existing account, or for a new one.
    pub password: Option<Password>,
    /// The session to begin, if any.
    pub start: Option<Start>,
    /// Their IP address.
    pub address: Option<IpAddr>,
    /// Minimum time between two invitations of a new account because of its email domain.
    pub cooldown: Duration,
}

/// Result of joining.
#[derive(Debug)]
pub struct Joined {
    pub tenant: Tenant,
    /// The session that was begun, if any.
    pub session: Option<Session>,
}

/// Why a person did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The link is wrong, used or expired, or the invitation was revoked; callers do not learn
    /// which.
    #[error("the link is not valid, was used already, or has expired")]
    TokenInvalid,
    /// A user other than the invited person is signed in.
    #[error("the invitation is for another email address")]
    NotYours,
    /// The password of the account is wrong.
    #[error("the password is wrong")]
    InvalidCredentials,
    /// Their session is over.
    #[error("the session is over")]
    SignedOut,
    /// The account has a second factor, so its owner must sign in first.
    #[error("a second factor is required")]
    SecondFactorRequired,
    /// Required information is missing.
    #[error("the name or the password is missing")]
    Missing {
        /// Whether the name is missing.
        name: bool,
        /// Whether the password is missing.
        password: bool,
    },
    /// The password of a new account is not acceptable.
    #[error(transparent)]
    Password(#[from] InvalidPassword),
    /// The password of a new account is easy to guess, or breached.
    #[error(transparent)]
    TooWeak(TooWeak),
    /// An operator disabled their account.
    #[error("the account is disabled")]
    AccountDisabled,
    /// They are already a member.
    #[error("the user is already a member")]
    AlreadyMember,
    /// An operator suspended the tenant.
    #[error("the tenant is suspended")]
    TenantSuspended,
    /// The tenant does not allow access from their IP address.
    #[error("the tenant does not allow access from this IP address")]
    IpNotAllowed,
    /// The tenant no longer invites email addresses of this domain.
    #[error("the tenant no longer invites email addresses of this domain")]
    DomainNotAllowed,
    /// An account of this email address was created concurrently.
    #[error("an account with this email address was created in the meantime")]
    AccountMade,
    /// The password could not be hashed or verified.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<SignInError> for JoinError {
    /// A session is refused here only if the password was changed in the meantime or the account
    /// disabled.
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
    /// The guest who follows the link of `invitation`, signed in or not. Fails with
    /// [`JoinError::NotYours`] if another user is signed in.
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
    /// Makes them a member, with a new account if they have none.
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
    let verdict = hasher.verify(password, Some(user.password_hash.clone())).await?;
    if verdict.is_right() {
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

/// The person who joins.
#[derive(Debug)]
enum Person {
    /// A person with an account, as it was when they proved that it is theirs.
    Known {
        user: Box<User>,
        /// The session in which they are signed in. They have then presented their second factor,
        /// if any.
        signed_in: Option<Box<Session>>,
    },
    /// A person who gets a new account.
    New { name: Name, password_hash: PasswordHash },
}

/// Accepts an invitation.
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
        let tenant = Tenant::lock(txn, scope).await?.ok_or(JoinError::TokenInvalid)?;
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
        MailBudget::note_accepted(txn, &tenant).await?;
        Entry::new(Action::MemberJoined, invitation.id)
            .by_named(user.id, &user.name)
            .record(txn, scope)
            .await?;
        let session = match &self.start {
            Some(start) => {
                let begin = Begin::new(&user, signed_in.is_some(), Some(tenant.id), start.clone());
                Some(begin.session(txn, signed_in.as_ref()).await?)
            }
            None => None,
        };
        Ok(Joined { tenant, session })
    }
}

impl Accept {
    /// Their session, if they are signed in and it is not over.
    async fn signed_in(&self, txn: &mut Txn) -> Result<Option<Session>, JoinError> {
        let Person::Known { user, signed_in: Some(session) } = &self.person else {
            return Ok(None);
        };
        let live = Session::act(txn, session.id, user.id, session.tenant_id).await?;
        live.map(Some).ok_or(JoinError::SignedOut)
    }

    /// Their account, created if they have none.
    async fn user(&self, txn: &mut Txn, invitation: &Invitation) -> Result<User, JoinError> {
        let (name, password_hash) = match &self.person {
            // An account deleted in the meantime belongs to nobody.
            Person::Known { user, signed_in } => {
                let current =
                    User::within(txn, user.id).await?.ok_or(JoinError::InvalidCredentials)?;
                if current.disabled_at.is_some() {
                    return Err(JoinError::AccountDisabled);
                }
                // Their email address may have changed, and the invited one may now belong to
                // another account.
                let is_invited = current.email_norm == invitation.email_norm;
                if !is_invited {
                    return Err(JoinError::NotYours);
                }
                // A password given was that of the account as it was then.
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
