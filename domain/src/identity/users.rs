//! People's accounts. Global: one person may belong to several tenants.

use std::{collections::HashMap, str::FromStr};

use common::{
    crypto::PasswordHash,
    db::{
        Change, Data, DbError, PlatformScope, Record, Store, Txn,
        schema::{self, Field, Index},
    },
    email::Email,
    id::UserId,
    origin::Principal,
    revocations::{self, Revoked},
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry},
    identity::sessions::Session,
};

/// A person's account. Exists only once its address was verified.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct User {
    /// Its id.
    #[serde(rename = "_id")]
    pub id: UserId,
    /// The address as the person wrote it.
    pub email: Email,
    /// What the address is compared by; unique.
    pub email_norm: String,
    /// What the person is called.
    pub name: String,
    /// argon2id.
    pub password_hash: PasswordHash,
    /// When another password was set than the first; tells passwords apart, however each is hashed.
    #[serde(default)]
    pub password_set_at: Option<DateTime>,
    /// Since when a second factor is asked for; none where the password is enough.
    #[serde(default)]
    pub second_factor_since: Option<DateTime>,
    /// Since when an operator stops it, if one does.
    #[serde(default)]
    pub disabled_at: Option<DateTime>,
    /// When they last signed in.
    #[serde(default)]
    pub last_sign_in_at: Option<DateTime>,
    /// When the address was verified.
    pub email_verified_at: DateTime,
    /// When the account was made.
    pub created_at: DateTime,
}

/// An account as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserRef {
    /// By its id.
    Id(UserId),
    /// By its address.
    Address(Email),
}

/// A text that names no account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an id such as usr_0192a0b8c0de7000800000000000cafe, or an e-mail address")]
pub struct InvalidUserRef;

impl FromStr for UserRef {
    type Err = InvalidUserRef;

    fn from_str(text: &str) -> Result<Self, InvalidUserRef> {
        let by_id = text.parse().map(Self::Id);
        by_id.or_else(|_| text.parse().map(Self::Address)).map_err(|_| InvalidUserRef)
    }
}

impl Record for User {
    const COLLECTION: &'static str = "users";
    const DATA: Data = Data::of_person("_id").without(&["password_hash"]);
    const INDEXES: &'static [Index] = &[Index::unique(EMAIL_INDEX, &[("email_norm", 1)])];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("email", schema::STRING),
        ("email_norm", schema::STRING),
        ("password_hash", schema::STRING),
        ("email_verified_at", schema::DATE),
        ("created_at", schema::DATE),
    ];
}

/// Unique: an address has one account.
pub const EMAIL_INDEX: &str = "users_email";

impl User {
    /// The account of an address. Platform-wide, because at login no tenant is known yet.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn by_email(store: &Store, email: &Email) -> Result<Option<Self>, DbError> {
        store.records::<Self>(PlatformScope).find(doc! { "email_norm": email.normalized() }).await
    }

    /// The account with this id.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn by_id(store: &Store, id: UserId) -> Result<Option<Self>, DbError> {
        store.records::<Self>(PlatformScope).find(doc! { "_id": id }).await
    }

    /// The account of a principal, if it is a person.
    pub async fn of_principal(
        store: &Store,
        principal: Principal,
    ) -> Result<Option<Self>, DbError> {
        match principal.user() {
            Some(user) => Self::by_id(store, user).await,
            None => Ok(None),
        }
    }

    /// The account that is named.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn named(store: &Store, name: &UserRef) -> Result<Option<Self>, DbError> {
        match name {
            UserRef::Id(id) => Self::by_id(store, *id).await,
            UserRef::Address(email) => Self::by_email(store, email).await,
        }
    }

    /// Up to `limit` accounts whose addresses begin with `prefix`, by address.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn beginning_with(
        store: &Store,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<Self>, DbError> {
        let from = prefix.to_lowercase();
        // Addresses are visible ASCII, so none that begins so comes after this, and the index finds
        // them.
        let to = format!("{from}\u{7f}");
        let filter = doc! { "email_norm": { "$gte": from, "$lt": to } };
        store
            .records::<Self>(PlatformScope)
            .list(filter, doc! { "email_norm": 1 }, i64::try_from(limit).unwrap_or(i64::MAX))
            .await
    }

    /// The accounts with these ids.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn by_ids(store: &Store, ids: &[UserId]) -> Result<HashMap<UserId, Self>, DbError> {
        let limit = i64::try_from(ids.len()).unwrap_or(i64::MAX).max(1);
        let found = store
            .records::<Self>(PlatformScope)
            .list(doc! { "_id": { "$in": ids.to_vec() } }, doc! {}, limit)
            .await?;
        Ok(found.into_iter().map(|user| (user.id, user)).collect())
    }

    /// The account with this id as `txn` sees it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn within(txn: &mut Txn, id: UserId) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(PlatformScope).find(doc! { "_id": id }).await
    }

    /// The account of an address as `txn` sees it.
    pub(crate) async fn by_email_within(
        txn: &mut Txn,
        email: &Email,
    ) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(PlatformScope).find(doc! { "email_norm": email.normalized() }).await
    }

    /// Gives the account another address, which was verified just now; none where it has not the
    /// address `before` any more.
    ///
    /// # Errors
    /// [`DbError::Duplicate`] of [`EMAIL_INDEX`] when the address has an account already.
    pub(crate) async fn replace_email(
        txn: &mut Txn,
        id: UserId,
        before: &Email,
        after: &Email,
    ) -> Result<Option<Self>, DbError> {
        let now = txn.clock().now();
        let update = doc! { "$set": { "email": after.as_str(), "email_norm": after.normalized(), "email_verified_at": now } };
        let filter = doc! { "_id": id, "email_norm": before.normalized() };
        txn.records::<Self>(PlatformScope).find_and_update(filter, update).await
    }

    /// Sets another password; none when the account is gone.
    pub(crate) async fn set_password(
        txn: &mut Txn,
        id: UserId,
        hash: &PasswordHash,
    ) -> Result<Option<Self>, DbError> {
        let now = txn.clock().now();
        let update = doc! { "$set": { "password_hash": hash, "password_set_at": now } };
        txn.records::<Self>(PlatformScope).find_and_update(doc! { "_id": id }, update).await
    }

    /// As [`User::set_password`], where it is still the one that was set at `before`; none when it
    /// is not.
    pub(crate) async fn replace_password(
        txn: &mut Txn,
        id: UserId,
        before: Option<DateTime>,
        hash: &PasswordHash,
    ) -> Result<Option<Self>, DbError> {
        let is_same = txn
            .records::<Self>(PlatformScope)
            .find(doc! { "_id": id, "password_set_at": before })
            .await?
            .is_some();
        if is_same { Self::set_password(txn, id, hash).await } else { Ok(None) }
    }

    /// Notes that they sign in with the address and the password that was set at `set_at`; none
    /// when either is another one by now. It is a write, so that no sign-in passes a new password,
    /// address or second factor unnoticed.
    pub(crate) async fn note_sign_in(
        txn: &mut Txn,
        id: UserId,
        email_norm: &str,
        set_at: Option<DateTime>,
    ) -> Result<Option<Self>, DbError> {
        let update = doc! { "$set": { "last_sign_in_at": txn.clock().now() } };
        let filter = doc! { "_id": id, "email_norm": email_norm, "password_set_at": set_at };
        txn.records::<Self>(PlatformScope).find_and_update(filter, update).await
    }

    /// Notes that their second factors change. It is a write, so that changes of one person's
    /// factors come one after the other, and see each other.
    pub(crate) async fn note_factors(txn: &mut Txn, id: UserId) -> Result<(), DbError> {
        let update = doc! { "$set": { "factors_changed_at": txn.clock().now() } };
        txn.records::<Self>(PlatformScope).update(doc! { "_id": id }, update).await.map(drop)
    }

    /// From now on a second factor is asked for; tells whether none was before.
    pub(crate) async fn has_second_factor_from_now(
        txn: &mut Txn,
        id: UserId,
    ) -> Result<bool, DbError> {
        let update = doc! { "$set": { "second_factor_since": txn.clock().now() } };
        txn.records::<Self>(PlatformScope)
            .update(doc! { "_id": id, "second_factor_since": null }, update)
            .await
    }

    /// The password is enough again; tells whether it was not.
    pub(crate) async fn has_no_second_factor(txn: &mut Txn, id: UserId) -> Result<bool, DbError> {
        let filter = doc! { "_id": id, "second_factor_since": { "$ne": null } };
        let update = doc! { "$set": { "second_factor_since": null } };
        txn.records::<Self>(PlatformScope).update(filter, update).await
    }

    /// Stops it from then on, or lets it go on.
    pub(crate) async fn set_disabled(
        txn: &mut Txn,
        id: UserId,
        since: Option<DateTime>,
    ) -> Result<(), DbError> {
        txn.records::<Self>(PlatformScope)
            .update(doc! { "_id": id }, doc! { "$set": { "disabled_at": since } })
            .await
            .map(drop)
    }

    /// Replaces the hash `before` of a password by another hash of the same password.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn rehash(
        store: &Store,
        id: UserId,
        before: &PasswordHash,
        after: &PasswordHash,
    ) -> Result<bool, DbError> {
        let filter = doc! { "_id": id, "password_hash": before };
        store
            .records::<Self>(PlatformScope)
            .update(filter, doc! { "$set": { "password_hash": after } })
            .await
    }

    /// Adds the account.
    ///
    /// # Errors
    /// [`DbError::Duplicate`] of [`EMAIL_INDEX`] when the address has one already.
    pub async fn insert(&self, txn: &mut Txn) -> Result<(), DbError> {
        txn.records::<Self>(PlatformScope).insert(self).await
    }
}

/// Why an account was not stopped, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum DisableError {
    /// There is no such account.
    #[error("there is no such account")]
    NotFound,
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Stops an account, and ends every session of it; tells whether it was not stopped before. Doing
/// it once more tells every process once more.
#[derive(Debug)]
pub struct DisableUser {
    /// Whose.
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
        Entry::new(Action::UserDisabled, user.id).record_on_platform(txn).await?;
        Ok(true)
    }
}

/// Lets an account go on, which begins with signing in; tells whether it was stopped.
#[derive(Debug)]
pub struct EnableUser {
    /// Whose.
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
        Entry::new(Action::UserEnabled, user.id).record_on_platform(txn).await?;
        Ok(true)
    }
}
