//! Password resets: links that set a new password for an account.
//!
//! A request creates no row, so requests for an email address without an account, or repeated
//! requests, cost the same and leave the same behind; the row is created when the mail is about to
//! be sent. An account has at most one link. Anyone can request it, so a further request mails the
//! same link again: otherwise a stranger's request would revoke the link in the owner's mailbox.

use std::time::Duration;

use common::{
    clock::{between, later},
    config::PURGE_AFTER_MAX,
    crypto::{LinkToken, MasterKey, PasswordHash, SealError, TokenHash},
    db::{
        Change, Data, DbError, PlatformScope, Record, Store, Txn,
        schema::{self, Field, Index},
    },
    email::Email,
    id::{JobId, PasswordResetId, UserId},
    sealed_email::{AddressDigest, SealedEmail},
};
use jobs::{Job, Queue, Unique, Window, stage};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry},
    identity::{
        email_changes::EmailChange,
        passwords::{ChangedBy, SendPasswordChanged},
        registrations::Mailing,
    },
    people::{sessions::Session, users::User},
    queues,
};

/// How long after its creation a link can be valid, however often it is mailed: without a limit,
/// requests could keep an old mail usable forever.
const VALID_MAX: Duration = Duration::from_hours(24);

/// A password reset link.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PasswordReset {
    #[serde(rename = "_id")]
    pub id: PasswordResetId,
    /// The account whose password it sets.
    pub user_id: UserId,
    /// The normalized email address that it is mailed to; the link is invalid once the account has
    /// another one. None for a link created by an older release.
    #[serde(default)]
    pub email_norm: Option<String>,
    /// Hash of the token in the link.
    pub token_hash: TokenHash,
    /// The job that mails it, or mails it again.
    pub job_id: JobId,
    /// When this job was assigned; at the creation if None.
    #[serde(default)]
    pub assigned_at: Option<DateTime>,
    /// When this job sent the mail.
    pub mailed_at: Option<DateTime>,
    /// When it was created.
    pub created_at: DateTime,
    /// When it expires.
    pub expires_at: DateTime,
}

impl Record for PasswordReset {
    const COLLECTION: &'static str = "password_resets";
    const DATA: Data = Data::of_person("user_id").without(&["token_hash"]);
    const INDEXES: &'static [Index] = &[
        Index::unique("password_resets_user", &[("user_id", 1)]),
        Index::expiring("password_resets_ttl", &[("expires_at", 1)], PURGE_AFTER_MAX),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("user_id", schema::STRING),
        ("token_hash", schema::STRING),
        ("job_id", schema::STRING),
        ("created_at", schema::DATE),
        ("expires_at", schema::DATE),
    ];
}

impl PasswordReset {
    /// The link with this `token`, if it is valid. Forged tokens are rejected without a query.
    /// Fails with [`ResetError::TokenInvalid`].
    pub async fn pending(store: &Store, key: &MasterKey, token: &str) -> Result<Self, ResetError> {
        let id: PasswordResetId = LinkToken::redeem(key, token).ok_or(ResetError::TokenInvalid)?;
        let filter = doc! { "_id": id, "token_hash": LinkToken::issue(key, id).hash(), "expires_at": { "$gt": store.clock().now() } };
        store.records::<Self>(PlatformScope).find(filter).await?.ok_or(ResetError::TokenInvalid)
    }

    /// Records that the mail was sent.
    pub async fn mailed(store: &Store, id: PasswordResetId) -> Result<(), DbError> {
        let update = doc! { "$set": { "mailed_at": store.clock().now() } };
        store.records::<Self>(PlatformScope).update(doc! { "_id": id }, update).await.map(drop)
    }

    /// Whether it was mailed to the current email address of `user`.
    pub fn is_for(&self, user: &User) -> bool {
        self.email_norm.as_ref().is_none_or(|email_norm| *email_norm == user.email_norm)
    }

    /// Whether its link can be mailed to `user` and followed until it expires. It cannot be after a
    /// change of the email address or of the master key.
    fn works_for(&self, user: &User, key: &MasterKey) -> bool {
        self.is_for(user) && self.token_hash == self.link_token(key).hash()
    }

    /// Revokes the link of `user`, if any.
    pub(crate) async fn forget_of(txn: &mut Txn, user: UserId) -> Result<(), DbError> {
        txn.records::<Self>(PlatformScope).delete_all(doc! { "user_id": user }).await.map(drop)
    }

    /// The token in its link.
    pub fn link_token(&self, key: &MasterKey) -> LinkToken {
        LinkToken::issue(key, self.id)
    }
}

/// Prepares the mailing of a link by a job, unless one was mailed to the account recently. Every
/// job receives the same link while it is valid, and each mail makes it valid for its lifetime
/// again, but for at most a day in total.
#[derive(Debug)]
pub struct Prepare<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    /// The account whose password the link sets.
    pub user: UserId,
    pub job: JobId,
    /// Lifetime of the link.
    pub ttl: Duration,
    /// Minimum time between two mails to one account.
    pub cooldown: Duration,
}

impl Prepare<'_> {
    /// Replaces the link of the account by a new one.
    async fn create(&self, txn: &mut Txn, user: Option<User>) -> Result<PasswordReset, DbError> {
        PasswordReset::forget_of(txn, self.user).await?;
        let (id, now) = (txn.clock().id(), txn.clock().now());
        let reset = PasswordReset {
            id,
            user_id: self.user,
            email_norm: user.map(|user| user.email_norm),
            token_hash: LinkToken::issue(self.key, id).hash(),
            job_id: self.job,
            assigned_at: None,
            mailed_at: None,
            created_at: now,
            expires_at: later(now, self.ttl),
        };
        txn.records::<PasswordReset>(PlatformScope).insert(&reset).await?;
        Entry::new(Action::PasswordResetCreated, id).record_on_platform(txn).await?;
        Ok(reset)
    }

    /// Assigns the link to this job, which mails it again.
    async fn keep(&self, txn: &mut Txn, reset: PasswordReset) -> Result<PasswordReset, DbError> {
        let now = txn.clock().now();
        let latest = later(reset.created_at, VALID_MAX);
        let expires_at = later(now, self.ttl).min(latest).max(reset.expires_at);
        let assign = doc! { "$set": {
            "job_id": self.job, "assigned_at": now, "mailed_at": null, "expires_at": expires_at,
        } };
        txn.records::<PasswordReset>(PlatformScope)
            .update(doc! { "_id": reset.id }, assign)
            .await?;
        let (job_id, assigned_at) = (self.job, Some(now));
        Ok(PasswordReset { job_id, assigned_at, mailed_at: None, expires_at, ..reset })
    }
}

impl Change for Prepare<'_> {
    type Output = (Mailing, Option<PasswordReset>);
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<Self::Output, DbError> {
        let now = txn.clock().now();
        let user = User::within(txn, self.user).await?;
        let before =
            txn.records::<PasswordReset>(PlatformScope).find(doc! { "user_id": self.user }).await?;
        let Some(before) = before else {
            return Ok((Mailing::Granted, Some(self.create(txn, user).await?)));
        };
        let is_valid = before.expires_at > now;
        if before.job_id == self.job && is_valid {
            let mailing = if before.mailed_at.is_some() { Mailing::Done } else { Mailing::Granted };
            return Ok((mailing, Some(before)));
        }
        // A job that was staged earlier but runs late has nothing to add to the mail of a later one.
        if before.job_id > self.job {
            return Ok((Mailing::Done, None));
        }
        let assigned_at = before.assigned_at.unwrap_or(before.created_at);
        let left = self.cooldown.saturating_sub(between(assigned_at, now));
        if !left.is_zero() {
            return Ok((Mailing::NotBefore(left), None));
        }
        let works = user.as_ref().is_some_and(|user| before.works_for(user, self.key));
        let reset = if is_valid && works {
            self.keep(txn, before).await?
        } else {
            self.create(txn, user).await?
        };
        Ok((Mailing::Granted, Some(reset)))
    }
}

/// Why a password was not set.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// The link is wrong, used, superseded or expired; callers do not learn which.
    #[error("the link is not valid, was used already, or has expired")]
    TokenInvalid,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Follows a link: uses it, sets the password, ends every session of the account, and notifies its
/// owner.
#[derive(Debug)]
pub struct ResetPassword {
    /// The link, as found.
    pub reset: PasswordReset,
    /// The new password.
    pub password_hash: PasswordHash,
}

impl Change for ResetPassword {
    type Output = ();
    type Error = ResetError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), ResetError> {
        let filter = doc! { "_id": self.reset.id, "expires_at": { "$gt": txn.clock().now() } };
        let reset = txn
            .records::<PasswordReset>(PlatformScope)
            .take(filter)
            .await?
            .ok_or(ResetError::TokenInvalid)?;
        let user = User::set_password(txn, reset.user_id, &self.password_hash).await?;
        let user = user.filter(|user| reset.is_for(user)).ok_or(ResetError::TokenInvalid)?;
        EmailChange::forget_of(txn, user.id).await?;
        Session::revoke_all(txn, user.id, None).await?;
        Entry::new(Action::UserPasswordReset, user.id).by(user.id).record_on_platform(txn).await?;
        stage(txn, None, &SendPasswordChanged { user: user.id, by: ChangedBy::Reset }).await?;
        Ok(())
    }
}

/// Mails a password reset link. Staged whether or not the email address has an account, so that the
/// response does not reveal it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendPasswordReset {
    /// The email address for which it was requested.
    pub address: SealedEmail,
    /// Its pseudonym: while one mail is queued for the address, no second one is. None for a job of
    /// an older release.
    #[serde(default)]
    pub digest: Option<AddressDigest>,
}

impl SendPasswordReset {
    /// For this email address.
    pub fn to(key: &MasterKey, email: &Email) -> Result<Self, SealError> {
        let digest = Some(AddressDigest::of(key, email));
        Ok(Self { address: SealedEmail::seal(key, Self::KIND, email)?, digest })
    }
}

impl Job for SendPasswordReset {
    const KIND: &'static str = "password.send_reset";
    const QUEUE: Queue = queues::EMAIL;

    fn unique(&self) -> Option<Unique> {
        let digest = self.digest.as_ref()?;
        Some(Unique { key: digest.as_str().to_owned(), window: Window::UntilFinished })
    }
}

/// Requests a password reset link.
pub struct ForgotPassword {
    job: SendPasswordReset,
}

impl ForgotPassword {
    /// For the email address given by the caller.
    pub fn of(key: &MasterKey, email: &Email) -> Result<Self, SealError> {
        Ok(Self { job: SendPasswordReset::to(key, email)? })
    }
}

impl Change for ForgotPassword {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, None, &self.job).await.map(drop)
    }
}
