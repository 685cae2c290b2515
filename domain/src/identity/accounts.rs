//! Accounts are created here, renamed, disabled and enabled. Creating one is the only place where an email
//! address is verified for the first time, through the link of a registration or of an invitation.

use std::time::Duration;

use common::{
    crypto::PasswordHash,
    db::{Change, DbError, PlatformScope, TenantScope, Txn},
    email::Email,
    id::UserId,
    name::Name,
    revocations::{self, Revoked},
};
use mongodb::bson::doc;

use crate::{
    activity::{Action, Entry, Property},
    identity::registrations::Registration,
    people::{sessions::Session, users::User},
    tenancy::{api_keys, memberships::Membership, tenant_domains},
};

/// A new account for a person who has shown that they read the mail of its email address.
#[derive(Debug)]
pub(crate) struct NewAccount {
    pub(crate) email: Email,
    pub(crate) name: Name,
    pub(crate) password_hash: PasswordHash,
}

impl NewAccount {
    /// Creates the account, and invites its owner to the tenant that admits their email domain, if
    /// any, at most once within `cooldown`. Fails with [`DbError::Duplicate`] of
    /// [`EMAIL_INDEX`](crate::people::users::EMAIL_INDEX) if the email address has an account.
    pub(crate) async fn create(self, txn: &mut Txn, cooldown: Duration) -> Result<User, DbError> {
        let now = txn.clock().now();
        let user = User {
            id: txn.clock().id(),
            email_norm: self.email.normalized(),
            email: self.email,
            name: self.name.to_string(),
            password_hash: self.password_hash,
            password_set_at: None,
            second_factor_since: None,
            wrong_codes: None,
            disabled_at: None,
            last_sign_in_at: None,
            email_verified_at: now,
            created_at: now,
        };
        user.insert(txn).await?;
        // Other registrations of this email address are no longer needed.
        txn.records::<Registration>(PlatformScope)
            .delete_all(doc! { "email_norm": &user.email_norm })
            .await?;
        Entry::new(Action::UserCreated, user.id).by(user.id).record_on_platform(txn).await?;
        tenant_domains::invite_by_domain(txn, &user, cooldown).await?;
        Ok(user)
    }
}

/// Changes the name of an account; returns the account in its new state, none if it no longer exists.
#[derive(Debug)]
pub struct ChangeName {
    pub user: UserId,
    /// The tenant they are working in, if any.
    pub scope: Option<TenantScope>,
    /// The new name.
    pub name: Name,
}

impl Change for ChangeName {
    type Output = Option<User>;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<User>, DbError> {
        let Some(user) = User::lock(txn, self.user).await? else { return Ok(None) };
        if user.name == self.name.as_str() {
            return Ok(Some(user));
        }
        User::set_name(txn, user.id, &self.name).await?;
        revocations::note(txn, Revoked::User(user.id));
        Entry::new(Action::UserNameChanged, user.id)
            .by(user.id)
            .changed(Property::Name, &user.name.as_str(), &self.name.as_str())?
            .record_in(txn, self.scope)
            .await?;
        Ok(Some(User { name: self.name.to_string(), ..user }))
    }
}

/// Why an account was not disabled or enabled.
#[derive(Debug, thiserror::Error)]
pub enum DisableError {
    /// The account does not exist.
    #[error("the account does not exist")]
    NotFound,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Disables an account, ends all its sessions, and suspends the API keys that act on its behalf; returns whether it was enabled. Repeating it
/// publishes the revocation again.
#[derive(Debug)]
pub struct DisableUser {
    pub user: UserId,
}

impl Change for DisableUser {
    type Output = bool;
    type Error = DisableError;

    async fn apply(&self, txn: &mut Txn) -> Result<bool, DisableError> {
        let user = User::within(txn, self.user).await?.ok_or(DisableError::NotFound)?;
        revocations::note(txn, Revoked::User(user.id));
        if user.disabled_at.is_some() {
            return Ok(false);
        }
        let now = txn.clock().now();
        User::set_disabled(txn, user.id, Some(now)).await?;
        Session::revoke_all(txn, user.id, None).await?;
        api_keys::suspend_everywhere(txn, user.id).await?;
        record_everywhere(txn, Action::UserDisabled, user.id).await?;
        Ok(true)
    }
}

/// Enables an account, whose owner must then sign in; returns whether it was disabled.
#[derive(Debug)]
pub struct EnableUser {
    pub user: UserId,
}

impl Change for EnableUser {
    type Output = bool;
    type Error = DisableError;

    async fn apply(&self, txn: &mut Txn) -> Result<bool, DisableError> {
        let user = User::within(txn, self.user).await?.ok_or(DisableError::NotFound)?;
        if user.disabled_at.is_none() {
            return Ok(false);
        }
        User::set_disabled(txn, user.id, None).await?;
        record_everywhere(txn, Action::UserEnabled, user.id).await?;
        Ok(true)
    }
}

/// Ends every session of an account, whose owner can sign in again; returns how many there were.
/// Repeating it publishes the revocation again. For operators.
#[derive(Debug)]
pub struct EndSessions {
    pub user: UserId,
}

impl Change for EndSessions {
    type Output = u64;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<u64, DbError> {
        revocations::note(txn, Revoked::User(self.user));
        let ended = Session::revoke_all(txn, self.user, None).await?;
        if ended > 0 {
            record_everywhere(txn, Action::SessionsRevoked, self.user).await?;
        }
        Ok(ended)
    }
}

/// Records what an operator does to a person: on the platform, and in each of their tenants, which
/// must be able to explain why a member can or cannot act there.
pub(crate) async fn record_everywhere(
    txn: &mut Txn,
    action: Action,
    user: UserId,
) -> Result<(), DbError> {
    let event = Entry::new(action, user);
    for membership in Membership::all_within(txn, user).await? {
        event.clone().record(txn, TenantScope::of_row(&membership)).await?;
    }
    event.record_on_platform(txn).await
}
