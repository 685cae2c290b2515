//! Registrations: people who asked for an account and have yet to verify their address.
//!
//! Asking creates nothing but a registration, whether or not the address has an account: the same
//! rows, the same work, the same answer, so nobody learns who is a customer (OWASP ASVS 6.3.8).
//! The worker decides which mail goes out. User, tenant and ownership come into being together
//! when the link is followed, so an address nobody verified can never squat on an account.

use std::time::Duration;

use common::{
    clock::{later, millis_of},
    config::PURGE_AFTER_MAX,
    crypto::{LinkToken, MasterKey, PasswordHash, TokenHash},
    db::{
        Change, Data, DbError, PlatformScope, Record, Store, TenantScope, Txn, is_duplicate,
        schema::{self, Field, Index},
    },
    email::Email,
    id::{JobId, RegistrationId},
    name::Name,
};
use jobs::{Job, Queue, stage};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry},
    identity::{
        accounts::NewAccount,
        users::{self, User},
    },
    tenancy::{memberships::Membership, roles::Role, tenants::Tenant},
};

/// What the master key makes pseudonyms of addresses for.
const DIGEST_PURPOSE: &str = "address-digest";

/// Someone who asked for an account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Registration {
    /// Its id.
    #[serde(rename = "_id")]
    pub id: RegistrationId,
    /// The address to verify.
    pub email: Email,
    /// What the address is compared by.
    pub email_norm: String,
    /// A pseudonym of the address, for jobs' payloads.
    pub email_digest: AddressDigest,
    /// What the person is called.
    pub name: Name,
    /// What their tenant will be called.
    pub tenant_name: Name,
    /// argon2id.
    pub password_hash: PasswordHash,
    /// The link's token, hashed.
    pub token_hash: TokenHash,
    /// When a mail about it last went out.
    pub mailed_at: Option<DateTime>,
    /// The job that sent it.
    #[serde(default)]
    pub mailed_by: Option<JobId>,
    /// When a job last set about mailing it.
    #[serde(default)]
    pub claimed_at: Option<DateTime>,
    /// That job.
    #[serde(default)]
    pub claimed_by: Option<JobId>,
    /// When it was made.
    pub created_at: DateTime,
    /// Void from then on.
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

/// A pseudonym of an address: what a job's payload carries instead of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AddressDigest(String);

impl AddressDigest {
    /// The pseudonym of `email` under this installation's key.
    pub fn of(key: &MasterKey, email: &Email) -> Self {
        Self(key.digest(DIGEST_PURPOSE, &email.normalized()))
    }

    /// The pseudonym as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a job may mail an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mailing {
    /// It may, and nobody else for a while.
    Granted,
    /// It has already: the job died before it could say so.
    Done,
    /// Somebody else did, or is about to; not before this long.
    NotBefore(Duration),
}

/// What someone who asks for an account tells.
#[derive(Debug, Clone)]
pub struct NewRegistration {
    /// The address to verify.
    pub email: Email,
    /// What the person is called.
    pub name: Name,
    /// What their tenant will be called.
    pub tenant_name: Name,
    /// argon2id.
    pub password_hash: PasswordHash,
}

impl Registration {
    /// Notes that someone asks for an account.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn create(
        txn: &mut Txn,
        key: &MasterKey,
        new: &NewRegistration,
        ttl: Duration,
    ) -> Result<Self, DbError> {
        let (id, now) = (txn.clock().id(), txn.clock().now());
        let registration = Self {
            id,
            email: new.email.clone(),
            email_norm: new.email.normalized(),
            email_digest: AddressDigest::of(key, &new.email),
            name: new.name.clone(),
            tenant_name: new.tenant_name.clone(),
            password_hash: new.password_hash.clone(),
            token_hash: LinkToken::issue(key, id).hash(),
            mailed_at: None,
            mailed_by: None,
            claimed_at: None,
            claimed_by: None,
            created_at: now,
            expires_at: later(now, ttl),
        };
        txn.records::<Self>(PlatformScope).insert(&registration).await?;
        Entry::new(Action::RegistrationCreated, id).record_on_platform(txn).await?;
        Ok(registration)
    }

    /// The registration with this id, unless it expired.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn pending(store: &Store, id: RegistrationId) -> Result<Option<Self>, DbError> {
        let filter = doc! { "_id": id, "expires_at": { "$gt": store.clock().now() } };
        store.records::<Self>(PlatformScope).find(filter).await
    }

    /// The newest registration of an address that has not expired.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn newest_of(store: &Store, email: &Email) -> Result<Option<Self>, DbError> {
        let filter =
            doc! { "email_norm": email.normalized(), "expires_at": { "$gt": store.clock().now() } };
        store.records::<Self>(PlatformScope).find_first(filter, doc! { "_id": -1 }).await
    }

    /// Whether more than one registration of an address waits: perhaps of more than one person, and
    /// only one of them can read the mail.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn is_contested(store: &Store, email: &Email) -> Result<bool, DbError> {
        let filter =
            doc! { "email_norm": email.normalized(), "expires_at": { "$gt": store.clock().now() } };
        Ok(store.records::<Self>(PlatformScope).count(filter).await? > 1)
    }

    /// The newest registration under a pseudonym that has not expired.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn newest_under(
        store: &Store,
        digest: &AddressDigest,
    ) -> Result<Option<Self>, DbError> {
        let filter =
            doc! { "email_digest": &digest.0, "expires_at": { "$gt": store.clock().now() } };
        store.records::<Self>(PlatformScope).find_first(filter, doc! { "_id": -1 }).await
    }

    /// Whether `job` may mail the address about it now. Of several jobs at once one may, so that
    /// asking again and again does not fill a stranger's inbox.
    ///
    /// # Errors
    /// When the store fails.
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

    /// Notes that `job` has mailed the address about it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn mailed(store: &Store, id: RegistrationId, job: JobId) -> Result<(), DbError> {
        let update = doc! { "$set": { "mailed_at": store.clock().now(), "mailed_by": job } };
        store.records::<Self>(PlatformScope).update(doc! { "_id": id }, update).await.map(drop)
    }

    /// The token of its link.
    pub fn link_token(&self, key: &MasterKey) -> LinkToken {
        LinkToken::issue(key, self.id)
    }
}

/// Why an address could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Wrong, used or expired: which of them is nobody's business.
    #[error("the link is not valid, was used already, or has expired")]
    TokenInvalid,
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Following the link: uses up the registration, and makes the user, their tenant and its owner.
/// They are invited to the tenant that is open to their address' domain, if one is.
#[derive(Debug)]
pub struct VerifyEmail {
    id: RegistrationId,
    token: TokenHash,
    cooldown: Duration,
}

impl VerifyEmail {
    /// Checks that `token` is one of ours before anything is looked up. Within `cooldown` its
    /// person is invited once at most.
    ///
    /// # Errors
    /// [`VerifyError::TokenInvalid`] when it is not.
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
        let registration = registration.ok_or(VerifyError::TokenInvalid)?;
        let account = NewAccount {
            email: registration.email,
            name: registration.name,
            password_hash: registration.password_hash,
        };
        let user = account.create(txn, self.cooldown).await.map_err(|error| match error {
            error if is_duplicate(&error, users::EMAIL_INDEX) => VerifyError::TokenInvalid,
            error => VerifyError::Db(error),
        })?;
        let tenant = Tenant::create(txn, &registration.tenant_name).await?;
        let scope = TenantScope::of_row(&tenant);
        Membership::create(txn, scope, user.id, Role::Owner).await?;
        Entry::new(Action::TenantCreated, tenant.id).by_user(&user).record(txn, scope).await?;
        Ok(user)
    }
}

/// Mails the person who asked for an account: a verification link, or, when the address has an
/// account already, word that somebody tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendVerification {
    /// What was asked for.
    pub registration: RegistrationId,
}

impl Job for SendVerification {
    const KIND: &'static str = "registration.send_verification";
    const QUEUE: Queue = Queue::Email;
}

/// Mails the verification link of an address again. Staged whether or not the address is known,
/// so that asking tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResendVerification {
    /// The address' pseudonym.
    pub address: AddressDigest,
}

impl Job for ResendVerification {
    const KIND: &'static str = "registration.resend_verification";
    const QUEUE: Queue = Queue::Email;
}

/// Someone asks for an account: notes it and stages the mail.
pub struct Register<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// What they tell.
    pub new: NewRegistration,
    /// How long the link is good for.
    pub ttl: Duration,
}

impl Change for Register<'_> {
    type Output = RegistrationId;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<RegistrationId, DbError> {
        let registration = Registration::create(txn, self.key, &self.new, self.ttl).await?;
        stage(txn, None, &SendVerification { registration: registration.id }).await?;
        Ok(registration.id)
    }
}

/// Someone asks for the verification mail again.
pub struct AskAgain {
    /// The address' pseudonym.
    pub address: AddressDigest,
}

impl Change for AskAgain {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, None, &ResendVerification { address: self.address.clone() }).await.map(drop)
    }
}
