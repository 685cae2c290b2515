//! People's accounts. Global: one person may belong to several tenants.

use std::collections::HashMap;

use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    crypto::PasswordHash,
    db::{
        DbError, IndexPlan, PlatformOwned, PlatformScope, Record, Store, Txn,
        schema::{self, Validator},
    },
    email::Email,
    id::UserId,
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
    /// When they last signed in.
    #[serde(default)]
    pub last_sign_in_at: Option<DateTime>,
    /// When the address was verified.
    pub email_verified_at: DateTime,
    /// When the account was made.
    pub created_at: DateTime,
}

impl Record for User {
    const COLLECTION: &'static str = "users";
}
impl PlatformOwned for User {}

/// Unique: an address has one account.
pub const EMAIL_INDEX: &str = "users_email";

pub(crate) const INDEXES: &[IndexPlan] =
    &[IndexPlan { collection: User::COLLECTION, name: EMAIL_INDEX, keys: &[("email_norm", 1)], unique: true, ttl: false }];

pub(crate) const VALIDATOR: Validator = Validator {
    collection: User::COLLECTION,
    required: &[
        ("_id", schema::STRING),
        ("email", schema::STRING),
        ("email_norm", schema::STRING),
        ("password_hash", schema::STRING),
        ("email_verified_at", schema::DATE),
        ("created_at", schema::DATE),
    ],
};

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

    /// The accounts with these ids.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn by_ids(store: &Store, ids: &[UserId]) -> Result<HashMap<UserId, Self>, DbError> {
        let limit = i64::try_from(ids.len()).unwrap_or(i64::MAX).max(1);
        let found = store.records::<Self>(PlatformScope).list(doc! { "_id": { "$in": ids.to_vec() } }, doc! {}, limit).await?;
        Ok(found.into_iter().map(|user| (user.id, user)).collect())
    }

    /// The account with this id as `txn` sees it.
    pub(crate) async fn within(txn: &mut Txn, id: UserId) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(PlatformScope).find(doc! { "_id": id }).await
    }

    /// Sets another password; none when the account is gone.
    pub(crate) async fn set_password(txn: &mut Txn, id: UserId, hash: &PasswordHash) -> Result<Option<Self>, DbError> {
        let now = txn.ambient().now();
        let update = doc! { "$set": { "password_hash": hash, "password_set_at": now } };
        txn.records::<Self>(PlatformScope).find_and_update(doc! { "_id": id }, update).await
    }

    /// As [`User::set_password`], where it is still the one that was set at `before`; none when it is not.
    pub(crate) async fn replace_password(
        txn: &mut Txn,
        id: UserId,
        before: Option<DateTime>,
        hash: &PasswordHash,
    ) -> Result<Option<Self>, DbError> {
        let is_same = txn.records::<Self>(PlatformScope).find(doc! { "_id": id, "password_set_at": before }).await?.is_some();
        if is_same { Self::set_password(txn, id, hash).await } else { Ok(None) }
    }

    /// Notes that they sign in with the password that was set at `set_at`; tells whether it still is the one.
    /// It is a write, so that no sign-in and no new password can pass each other unnoticed.
    pub(crate) async fn note_sign_in(txn: &mut Txn, id: UserId, set_at: Option<DateTime>) -> Result<bool, DbError> {
        let update = doc! { "$set": { "last_sign_in_at": txn.ambient().now() } };
        txn.records::<Self>(PlatformScope).update(doc! { "_id": id, "password_set_at": set_at }, update).await
    }

    /// Replaces the hash `before` of a password by another hash of the same password.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn rehash(store: &Store, id: UserId, before: &PasswordHash, after: &PasswordHash) -> Result<bool, DbError> {
        let filter = doc! { "_id": id, "password_hash": before };
        store.records::<Self>(PlatformScope).update(filter, doc! { "$set": { "password_hash": after } }).await
    }

    /// Adds the account.
    ///
    /// # Errors
    /// [`DbError::Duplicate`] of [`EMAIL_INDEX`] when the address has one already.
    pub async fn insert(&self, txn: &mut Txn) -> Result<(), DbError> {
        txn.records::<Self>(PlatformScope).insert(self).await
    }
}
