//! Accounts of people. They are global: one person may belong to several tenants.

use std::{collections::HashMap, str::FromStr, time::Duration};

use common::{
    clock::{earlier, later},
    crypto::PasswordHash,
    db::{
        Data, DbError, PlatformScope, Record, Store, Txn,
        schema::{self, Field, Index},
    },
    email::Email,
    id::UserId,
    name::Name,
};
use mongodb::bson::{Bson, DateTime, doc};
use serde::{Deserialize, Serialize};

/// An account. Exists only once its email address was verified.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct User {
    #[serde(rename = "_id")]
    pub id: UserId,
    /// The email address as the person wrote it.
    pub email: Email,
    /// The normalized email address, for comparisons; unique.
    pub email_norm: String,
    /// Name of the person.
    pub name: String,
    /// Hash of the password.
    pub password_hash: PasswordHash,
    /// When the password was last changed; none for the first one. Identifies a password, however
    /// it is hashed.
    #[serde(default)]
    pub password_set_at: Option<DateTime>,
    /// Since when a second factor is required; none if the password is enough.
    #[serde(default)]
    pub second_factor_since: Option<DateTime>,
    /// Wrong codes of its second factors, if any were presented from unknown devices.
    #[serde(default)]
    pub wrong_codes: Option<WrongCodes>,
    /// When an operator disabled it, if it is disabled.
    #[serde(default)]
    pub disabled_at: Option<DateTime>,
    /// When its owner last signed in.
    #[serde(default)]
    pub last_sign_in_at: Option<DateTime>,
    /// When the email address was verified.
    pub email_verified_at: DateTime,
    /// When the account was created.
    pub created_at: DateTime,
}

/// Wrong codes of second factors that were presented in one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongCodes {
    pub count: i64,
    /// When the window ends, and they no longer count.
    pub until: DateTime,
}

impl WrongCodes {
    /// With another one, in the window of those `before`, or in a new one.
    pub(crate) fn and_another(before: Option<Self>, now: DateTime, window: Duration) -> Self {
        let current = before.filter(|before| before.until > now);
        let Self { count, until } = current.unwrap_or(Self { count: 0, until: later(now, window) });
        Self { count: count + 1, until }
    }
}

impl From<WrongCodes> for Bson {
    fn from(wrong: WrongCodes) -> Self {
        doc! { "count": wrong.count, "until": wrong.until }.into()
    }
}

/// How an operator refers to an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserRef {
    /// By its id.
    Id(UserId),
    /// By its email address.
    Address(Email),
}

/// The text does not refer to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an id such as usr_0192a0b8c0de7000800000000000cafe, or an email address")]
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

/// A new password makes the wrong codes of second factors count no longer, unless another one did so
/// within this time. Otherwise a person who can read the owner's mail could guess codes without
/// limit, by resetting the password again and again.
const CODES_FORGIVEN_EVERY: Duration = Duration::from_hours(1);

/// Unique index: an email address has one account.
pub const EMAIL_INDEX: &str = "users_email";

impl User {
    /// The account of an email address. Platform-wide, because no tenant is known yet at sign-in.
    pub async fn by_email(store: &Store, email: &Email) -> Result<Option<Self>, DbError> {
        store.records::<Self>(PlatformScope).find(doc! { "email_norm": email.normalized() }).await
    }

    /// The account with this id.
    pub async fn by_id(store: &Store, id: UserId) -> Result<Option<Self>, DbError> {
        store.records::<Self>(PlatformScope).find(doc! { "_id": id }).await
    }

    /// The account that `name` refers to.
    pub async fn named(store: &Store, name: &UserRef) -> Result<Option<Self>, DbError> {
        match name {
            UserRef::Id(id) => Self::by_id(store, *id).await,
            UserRef::Address(email) => Self::by_email(store, email).await,
        }
    }

    /// Up to `limit` accounts whose email addresses start with `prefix`, ordered by email address.
    pub async fn beginning_with(
        store: &Store,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<Self>, DbError> {
        let from = prefix.to_lowercase();
        // Email addresses are visible ASCII, so none with this prefix sorts after this bound, and
        // the index can be used.
        let to = format!("{from}\u{7f}");
        let filter = doc! { "email_norm": { "$gte": from, "$lt": to } };
        store
            .records::<Self>(PlatformScope)
            .list(filter, doc! { "email_norm": 1 }, i64::try_from(limit).unwrap_or(i64::MAX))
            .await
    }

    /// The accounts with these ids.
    pub async fn by_ids(store: &Store, ids: &[UserId]) -> Result<HashMap<UserId, Self>, DbError> {
        let limit = i64::try_from(ids.len()).unwrap_or(i64::MAX).max(1);
        let found = store
            .records::<Self>(PlatformScope)
            .list(doc! { "_id": { "$in": ids.to_vec() } }, doc! {}, limit)
            .await?;
        Ok(found.into_iter().map(|user| (user.id, user)).collect())
    }

    /// The account with this id, within a transaction.
    pub async fn within(txn: &mut Txn, id: UserId) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(PlatformScope).find(doc! { "_id": id }).await
    }

    /// Begins a change of what the user has, such as the tenants that they own; none if the account
    /// no longer exists. It writes the account's row, so that such changes are serialized: each sees
    /// the result of those before it.
    pub(crate) async fn lock(txn: &mut Txn, id: UserId) -> Result<Option<Self>, DbError> {
        let update = doc! { "$set": { "locked_at": txn.clock().now() } };
        txn.records::<Self>(PlatformScope).find_and_update(doc! { "_id": id }, update).await
    }

    /// Sets another name, within a change that has locked the account.
    pub(crate) async fn set_name(txn: &mut Txn, id: UserId, name: &Name) -> Result<(), DbError> {
        let update = doc! { "$set": { "name": name.as_str() } };
        txn.records::<Self>(PlatformScope).update(doc! { "_id": id }, update).await.map(drop)
    }

    /// The account of an email address, within a transaction.
    pub(crate) async fn by_email_within(
        txn: &mut Txn,
        email: &Email,
    ) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(PlatformScope).find(doc! { "email_norm": email.normalized() }).await
    }

    /// Sets a new email address, which was just verified; none if the account no longer has the
    /// address `before`. Fails with [`DbError::Duplicate`] of [`EMAIL_INDEX`] if the email address
    /// has an account.
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

    /// Sets a new password; none if the account no longer exists. Wrong codes of second factors no
    /// longer count: a person who guessed them with the old password cannot continue.
    pub(crate) async fn set_password(
        txn: &mut Txn,
        id: UserId,
        hash: &PasswordHash,
    ) -> Result<Option<Self>, DbError> {
        let now = txn.clock().now();
        let recently = earlier(now, CODES_FORGIVEN_EVERY);
        txn.records::<Self>(PlatformScope)
            .update(
                doc! { "_id": id, "password_set_at": { "$not": { "$gt": recently } } },
                doc! { "$set": { "wrong_codes": null } },
            )
            .await?;
        let update = doc! { "$set": { "password_hash": hash, "password_set_at": now } };
        txn.records::<Self>(PlatformScope).find_and_update(doc! { "_id": id }, update).await
    }

    /// As [`User::set_password`], if the password is still the one set at `before`; otherwise none.
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

    /// Records a sign-in with the email address and the password set at `set_at`; none if either
    /// has changed. This is a write, so that no sign-in can race with a new password, email address
    /// or second factor.
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

    /// Records that the second factors change. This is a write, so that changes of one user's
    /// factors are serialized and see each other.
    pub(crate) async fn note_factors(txn: &mut Txn, id: UserId) -> Result<(), DbError> {
        let update = doc! { "$set": { "factors_changed_at": txn.clock().now() } };
        txn.records::<Self>(PlatformScope).update(doc! { "_id": id }, update).await.map(drop)
    }

    /// Requires a second factor from now on; returns whether none was required before.
    pub(crate) async fn has_second_factor_from_now(
        txn: &mut Txn,
        id: UserId,
    ) -> Result<bool, DbError> {
        let update = doc! { "$set": { "second_factor_since": txn.clock().now() } };
        txn.records::<Self>(PlatformScope)
            .update(doc! { "_id": id, "second_factor_since": null }, update)
            .await
    }

    /// Requires the password only; returns whether a second factor was required.
    pub(crate) async fn has_no_second_factor(txn: &mut Txn, id: UserId) -> Result<bool, DbError> {
        let filter = doc! { "_id": id, "second_factor_since": { "$ne": null } };
        let update = doc! { "$set": { "second_factor_since": null } };
        txn.records::<Self>(PlatformScope).update(filter, update).await
    }

    /// Disables it from `since` on, or enables it.
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

    /// Inserts the account. Fails with [`DbError::Duplicate`] of [`EMAIL_INDEX`] if the email
    /// address has one.
    pub async fn insert(&self, txn: &mut Txn) -> Result<(), DbError> {
        txn.records::<Self>(PlatformScope).insert(self).await
    }
}
