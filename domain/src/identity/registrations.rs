//! Registrations: accounts that were requested and whose email address is not verified yet.
//!
//! A request creates only a registration, whether or not the email address has an account: the same
//! rows, the same work, the same response, so that nobody learns who is a customer (OWASP ASVS
//! 6.3.8). The worker decides which mail to send. User, tenant and ownership are created together
//! when the link is followed, so that an unverified email address can never occupy an account.

use std::time::Duration;

use common::{
    clock::{Clock, later, millis_of},
    config::PURGE_AFTER_MAX,
    crypto::{LinkToken, MasterKey, PasswordHash, TokenHash},
    db::{
        Change, Data, DbError, PlatformScope, Record, Store, Txn, is_duplicate,
        schema::{self, Field, Index},
    },
    email::Email,
    id::{JobId, RegistrationId},
    name::Name,
    sealed_email::AddressDigest,
};
use jobs::{Job, Queue, Unique, Window, stage};
use mongodb::bson::{Bson, DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry},
    identity::accounts::NewAccount,
    people::users::{self, User},
    queues,
    tenancy::tenants::create_for,
};

/// A request for an account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Registration {
    #[serde(rename = "_id")]
    pub id: RegistrationId,
    /// The email address to verify.
    pub email: Email,
    /// The normalized email address, for comparisons.
    pub email_norm: String,
    /// Pseudonym of the email address, for the payloads of jobs.
    pub email_digest: AddressDigest,
    /// Name of the person.
    pub name: Name,
    /// Name of their future tenant.
    pub tenant_name: Name,
    /// Hash of the chosen password.
    pub password_hash: PasswordHash,
    /// Hash of the token in the link.
    pub token_hash: TokenHash,
    /// The job that was staged with it and mails it. None for a registration of an older release,
    /// or without a mail.
    #[serde(default)]
    pub job_id: Option<JobId>,
    /// When the last mail about it was sent.
    pub mailed_at: Option<DateTime>,
    /// The job that sent it.
    #[serde(default)]
    pub mailed_by: Option<JobId>,
    /// When a job last claimed the mailing.
    #[serde(default)]
    pub claimed_at: Option<DateTime>,
    /// The job that claimed it.
    #[serde(default)]
    pub claimed_by: Option<JobId>,
    /// When it was created.
    pub created_at: DateTime,
    /// When it expires.
    pub expires_at: DateTime,
}

impl Record for Registration {
    const COLLECTION: &'static str = "registrations";
    const DATA: Data = Data::of_person("email_norm").without(&["password_hash", "token_hash"]);
    const INDEXES: &'static [Index] = &[
        Index::unique("registrations_token", &[("token_hash", 1)]),
        Index::on("registrations_email", &[("email_norm", 1), ("_id", -1)]),
        Index::on("registrations_digest", &[("email_digest", 1), ("_id", -1)]),
        Index::expiring("registrations_ttl", &[("expires_at", 1)], PURGE_AFTER_MAX),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("email", schema::STRING),
        ("email_norm", schema::STRING),
        ("email_digest", schema::STRING),
        ("password_hash", schema::STRING),
        ("token_hash", schema::STRING),
        ("created_at", schema::DATE),
        ("expires_at", schema::DATE),
    ];
}

/// A link that was followed, stored until it would have expired, so that pressing its button again
/// is not an error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FollowedLink {
    #[serde(rename = "_id")]
    id: RegistrationId,
    expires_at: DateTime,
}

impl Record for FollowedLink {
    const COLLECTION: &'static str = "followed_verification_links";
    const DATA: Data = Data::of_platform();
    const INDEXES: &'static [Index] =
        &[Index::expiring("followed_verification_links_ttl", &[("expires_at", 1)], Duration::ZERO)];
}

impl FollowedLink {
    async fn is_known(txn: &mut Txn, id: RegistrationId) -> Result<bool, DbError> {
        let filter = doc! { "_id": id, "expires_at": { "$gt": txn.clock().now() } };
        Ok(txn.records::<Self>(PlatformScope).find(filter).await?.is_some())
    }
}

/// Whether a job may mail an email address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mailing {
    /// It may, and no other job for a while.
    Granted,
    /// It has already: the job died before it could finish.
    Done,
    /// Another job did, or is about to; it must wait at least this long.
    NotBefore(Duration),
}

/// A request for an account.
#[derive(Debug, Clone)]
pub struct NewRegistration {
    /// The email address to verify.
    pub email: Email,
    /// Name of the person.
    pub name: Name,
    /// Name of their future tenant.
    pub tenant_name: Name,
    /// Hash of the chosen password.
    pub password_hash: PasswordHash,
}

impl Registration {
    /// A registration that is not stored yet.
    pub fn new(clock: &Clock, key: &MasterKey, new: &NewRegistration, ttl: Duration) -> Self {
        let (id, now) = (clock.id(), clock.now());
        Self {
            id,
            email: new.email.clone(),
            email_norm: new.email.normalized(),
            email_digest: AddressDigest::of(key, &new.email),
            name: new.name.clone(),
            tenant_name: new.tenant_name.clone(),
            password_hash: new.password_hash.clone(),
            token_hash: LinkToken::issue(key, id).hash(),
            job_id: None,
            mailed_at: None,
            mailed_by: None,
            claimed_at: None,
            claimed_by: None,
            created_at: now,
            expires_at: later(now, ttl),
        }
    }

    /// Stores it.
    pub async fn insert(&self, txn: &mut Txn) -> Result<(), DbError> {
        txn.records::<Self>(PlatformScope).insert(self).await?;
        Entry::new(Action::RegistrationCreated, self.id).record_on_platform(txn).await
    }

    /// The registration with this id, unless it has expired.
    pub async fn pending(store: &Store, id: RegistrationId) -> Result<Option<Self>, DbError> {
        let filter = doc! { "_id": id, "expires_at": { "$gt": store.clock().now() } };
        store.records::<Self>(PlatformScope).find(filter).await
    }

    /// The newest unexpired registration of an email address.
    pub async fn newest_of(store: &Store, email: &Email) -> Result<Option<Self>, DbError> {
        let filter =
            doc! { "email_norm": email.normalized(), "expires_at": { "$gt": store.clock().now() } };
        store.records::<Self>(PlatformScope).find_first(filter, doc! { "_id": -1 }).await
    }

    /// Up to `limit` registrations of an email address, newest first: those that are pending, and
    /// expired ones until they are purged.
    pub async fn all_of(store: &Store, email: &Email, limit: i64) -> Result<Vec<Self>, DbError> {
        let filter = doc! { "email_norm": email.normalized() };
        store.records::<Self>(PlatformScope).list(filter, doc! { "_id": -1 }, limit).await
    }

    /// Whether several registrations of an email address are pending: perhaps of several people,
    /// only one of whom can read the mail.
    pub async fn is_contested(store: &Store, email: &Email) -> Result<bool, DbError> {
        let filter =
            doc! { "email_norm": email.normalized(), "expires_at": { "$gt": store.clock().now() } };
        Ok(store.records::<Self>(PlatformScope).count(filter).await? > 1)
    }

    /// The unexpired registration to mail when the mail is requested again under a pseudonym: the
    /// oldest that was not mailed yet, else the newest.
    pub async fn to_mail_again(
        store: &Store,
        digest: &AddressDigest,
    ) -> Result<Option<Self>, DbError> {
        let pending =
            doc! { "email_digest": digest.as_str(), "expires_at": { "$gt": store.clock().now() } };
        let mut not_mailed = pending.clone();
        not_mailed.insert("mailed_at", Bson::Null);
        let rows = || store.records::<Self>(PlatformScope);
        match rows().find_first(not_mailed, doc! { "_id": 1 }).await? {
            Some(oldest) => Ok(Some(oldest)),
            None => rows().find_first(pending, doc! { "_id": -1 }).await,
        }
    }

    /// Whether the email address was mailed about any registration since this one was created.
    pub async fn is_answered(&self, store: &Store) -> Result<bool, DbError> {
        let filter =
            doc! { "email_norm": &self.email_norm, "mailed_at": { "$gte": self.created_at } };
        Ok(store.records::<Self>(PlatformScope).find(filter).await?.is_some())
    }

    /// Whether `job` may now mail the email address again. Only one of several concurrent jobs may,
    /// so that repeated requests do not flood a stranger's inbox.
    pub async fn claim_mailing(
        &self,
        store: &Store,
        job: JobId,
        cooldown: Duration,
    ) -> Result<Mailing, DbError> {
        let now = store.clock().now();
        let mailed = doc! { "email_norm": &self.email_norm, "mailed_at": { "$ne": null } };
        let last = store
            .records::<Self>(PlatformScope)
            .find_first(mailed, doc! { "mailed_at": -1 })
            .await?;
        if let Some((mailed_at, mailed_by)) =
            last.and_then(|last| Some((last.mailed_at?, last.mailed_by)))
        {
            if mailed_by == Some(job) {
                return Ok(Mailing::Done);
            }
            let passed = now.timestamp_millis().saturating_sub(mailed_at.timestamp_millis());
            let left =
                u64::try_from(millis_of(cooldown).saturating_sub(passed)).unwrap_or_default();
            if left > 0 {
                return Ok(Mailing::NotBefore(Duration::from_millis(left)));
            }
        }
        let stale =
            DateTime::from_millis(now.timestamp_millis().saturating_sub(millis_of(cooldown)));
        let free = doc! { "$or": [{ "claimed_by": null }, { "claimed_by": job }, { "claimed_at": { "$lte": stale } }] };
        let filter = doc! { "$and": [{ "_id": self.id }, free] };
        let claim = doc! { "$set": { "claimed_by": job, "claimed_at": now } };
        let claimed = store.records::<Self>(PlatformScope).update(filter, claim).await?;
        Ok(if claimed { Mailing::Granted } else { Mailing::NotBefore(cooldown) })
    }

    /// Records that `job` has mailed the email address.
    pub async fn mailed(store: &Store, id: RegistrationId, job: JobId) -> Result<(), DbError> {
        let update = doc! { "$set": { "mailed_at": store.clock().now(), "mailed_by": job } };
        store.records::<Self>(PlatformScope).update(doc! { "_id": id }, update).await.map(drop)
    }

    /// The token in its link.
    pub fn link_token(&self, key: &MasterKey) -> LinkToken {
        LinkToken::issue(key, self.id)
    }
}

/// Why an email address could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The link is wrong, used or expired; callers do not learn which.
    #[error("the link is not valid, was used already, or has expired")]
    TokenInvalid,
    /// The link was followed before, and has not expired since.
    #[error("the email address was verified with this link already")]
    VerifiedAlready,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Follows the link: uses the registration, and creates the user, their tenant and its ownership.
/// Invites them to the tenant that admits their email domain, if any.
#[derive(Debug)]
pub struct VerifyEmail {
    id: RegistrationId,
    token: TokenHash,
    cooldown: Duration,
}

impl VerifyEmail {
    /// Checks that we issued `token` before querying anything. The user is invited at most once
    /// within `cooldown`. Fails with [`VerifyError::TokenInvalid`].
    pub fn with_token(
        key: &MasterKey,
        token: &str,
        cooldown: Duration,
    ) -> Result<Self, VerifyError> {
        let id = LinkToken::redeem(key, token).ok_or(VerifyError::TokenInvalid)?;
        Ok(Self { id, token: LinkToken::issue(key, id).hash(), cooldown })
    }
}

impl Change for VerifyEmail {
    type Output = User;
    type Error = VerifyError;

    async fn apply(&self, txn: &mut Txn) -> Result<User, VerifyError> {
        let now = txn.clock().now();
        let filter =
            doc! { "_id": self.id, "token_hash": self.token.clone(), "expires_at": { "$gt": now } };
        let registration = txn.records::<Registration>(PlatformScope).take(filter).await?;
        let Some(registration) = registration else {
            return Err(if FollowedLink::is_known(txn, self.id).await? {
                VerifyError::VerifiedAlready
            } else {
                VerifyError::TokenInvalid
            });
        };
        let followed = FollowedLink { id: self.id, expires_at: registration.expires_at };
        txn.records::<FollowedLink>(PlatformScope).insert(&followed).await?;
        let account = NewAccount {
            email: registration.email,
            name: registration.name,
            password_hash: registration.password_hash,
        };
        let user = account.create(txn, self.cooldown).await.map_err(|error| match error {
            error if is_duplicate(&error, users::EMAIL_INDEX) => VerifyError::TokenInvalid,
            error => VerifyError::Db(error),
        })?;
        create_for(txn, &user, &registration.tenant_name, None).await?;
        Ok(user)
    }
}

/// Mails a person who registered: a verification link, or, if the email address has an account, a
/// notice to its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendVerification {
    pub registration: RegistrationId,
}

impl Job for SendVerification {
    const KIND: &'static str = "registration.send_verification";
    const QUEUE: Queue = queues::EMAIL;
}

/// Mails the verification link again. Staged whether or not the email address is known, so that the
/// response does not reveal it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResendVerification {
    /// Pseudonym of the email address.
    pub address: AddressDigest,
}

impl Job for ResendVerification {
    const KIND: &'static str = "registration.resend_verification";
    const QUEUE: Queue = queues::EMAIL;

    /// While one mail is queued for the email address, no second one is.
    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: self.address.as_str().to_owned(), window: Window::UntilFinished })
    }
}

/// Creates a registration and stages its mail.
pub struct Register<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    /// The request.
    pub new: NewRegistration,
    /// Lifetime of the link.
    pub ttl: Duration,
}

impl Change for Register<'_> {
    type Output = RegistrationId;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<RegistrationId, DbError> {
        let mut registration = Registration::new(txn.clock(), self.key, &self.new, self.ttl);
        let job = SendVerification { registration: registration.id };
        registration.job_id = Some(stage(txn, None, &job).await?);
        registration.insert(txn).await?;
        Ok(registration.id)
    }
}

/// Requests the verification mail again.
pub struct AskAgain {
    /// Pseudonym of the email address.
    pub address: AddressDigest,
}

impl Change for AskAgain {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, None, &ResendVerification { address: self.address.clone() }).await.map(drop)
    }
}
