//! Passkeys (Web Authentication, W3C): keys on a user's device, which the device uses only after it
//! has verified the user. So a passkey is a second factor in addition to the password, and enough
//! to sign in without one.
//!
//! A ceremony has two halves: options for the authenticator, and its response. The state between
//! them is encrypted and kept by the client ([`Ceremony`]), so that requesting options writes
//! nothing and access to the database is not enough to answer. A completed ceremony is remembered
//! until it would have expired, so that its response can be used only once.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{
    clock::{Clock, later},
    crypto::{MasterKey, SealError},
    db::{
        Change, Data, DbError, PlatformScope, Record, Store, Txn, is_duplicate,
        schema::{self, Field, Index},
    },
    id::{PasskeyCeremonyId, PasskeyId, UserId},
    name::Name,
};
use mongodb::bson::{Binary, DateTime, doc, spec::BinarySubtype};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use webauthn_rs::{
    Webauthn, WebauthnBuilder,
    prelude::{
        AuthenticationResult, DiscoverableAuthentication, Passkey as Credential,
        PasskeyAuthentication, PasskeyRegistration, PublicKeyCredential,
        RegisterPublicKeyCredential, Url, WebauthnError,
    },
};

use super::{MfaChange, MfaError, Owner};
use crate::{identity::sign_in::SignInError, people::users::User};

/// Purpose of the key that encrypts ceremonies.
const PURPOSE: &str = "passkey-ceremony";
/// Maximum number of passkeys per user.
pub const PASSKEYS_MAX: usize = 20;

/// An authenticator's response to the options for adding a passkey.
pub type Attestation = RegisterPublicKeyCredential;
/// An authenticator's response to the options for using a passkey.
pub type Assertion = PublicKeyCredential;

/// A passkey of a user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Passkey {
    #[serde(rename = "_id")]
    pub id: PasskeyId,
    pub user_id: UserId,
    /// Id of the credential at the authenticator; unique.
    credential_id: String,
    /// Public key and state, as serialized by the library.
    credential: Binary,
    /// Name given by the user.
    pub name: Name,
    /// When it was added.
    pub created_at: DateTime,
    /// When it was last used.
    pub last_used_at: Option<DateTime>,
}

impl Record for Passkey {
    const COLLECTION: &'static str = "passkeys";
    const DATA: Data = Data::of_person("user_id").without(&["credential"]);
    const INDEXES: &'static [Index] = &[
        Index::on("passkeys_user", &[("user_id", 1), ("_id", 1)]),
        Index::unique(CREDENTIAL_INDEX, &[("credential_id", 1)]),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("user_id", schema::STRING),
        ("credential_id", schema::STRING),
        ("name", schema::STRING),
        ("created_at", schema::DATE),
    ];
}

/// A completed ceremony, until it would have expired.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UsedCeremony {
    #[serde(rename = "_id")]
    id: PasskeyCeremonyId,
    expires_at: DateTime,
}

impl Record for UsedCeremony {
    const COLLECTION: &'static str = "used_passkey_ceremonies";
    const DATA: Data = Data::of_platform();
    const INDEXES: &'static [Index] =
        &[Index::expiring("used_passkey_ceremonies_ttl", &[("expires_at", 1)], Duration::ZERO)];
}

const CREDENTIAL_INDEX: &str = "passkeys_credential";

/// This installation, to whose domain passkeys are bound.
#[derive(Debug)]
pub struct RelyingParty(Webauthn);

/// Options for the authenticator: the `publicKey` of the browser's call.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Options(Value);

impl Options {
    fn new(options: &impl Serialize) -> Result<Self, DbError> {
        serde_json::to_value(options).map(Self).map_err(|error| DbError::Shape(error.to_string()))
    }
}

/// The state of a ceremony until the authenticator responds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ceremony<S> {
    id: PasskeyCeremonyId,
    expires_at: DateTime,
    state: S,
}

/// Adding a passkey.
#[derive(Debug, Serialize, Deserialize)]
pub struct Adding {
    user: UserId,
    state: PasskeyRegistration,
}

/// Using a passkey that the authenticator finds by itself.
pub type Using = DiscoverableAuthentication;

/// A ceremony that the authenticator completed.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    id: PasskeyCeremonyId,
    expires_at: DateTime,
}

impl<S: Serialize + DeserializeOwned> Ceremony<S> {
    fn new(clock: &Clock, ttl: Duration, state: S) -> Self {
        Self { id: clock.id(), expires_at: later(clock.now(), ttl), state }
    }

    /// Encrypts it for the client.
    pub fn seal(&self, key: &MasterKey) -> Result<String, SealError> {
        let plain = serde_json::to_vec(self).map_err(|_| SealError)?;
        Ok(URL_SAFE_NO_PAD.encode(key.seal(&purpose::<S>(), &plain)?))
    }

    /// Decrypts a ceremony. Fails with [`MfaError::CeremonyInvalid`] if we did not issue `text` for
    /// this kind of ceremony, or it has expired.
    pub fn open(key: &MasterKey, text: &str, now: DateTime) -> Result<Self, MfaError> {
        let sealed = URL_SAFE_NO_PAD.decode(text).map_err(|_| MfaError::CeremonyInvalid)?;
        let plain = key.open(&purpose::<S>(), &sealed).map_err(|_| MfaError::CeremonyInvalid)?;
        let ceremony: Self =
            serde_json::from_slice(&plain).map_err(|_| MfaError::CeremonyInvalid)?;
        if ceremony.expires_at > now { Ok(ceremony) } else { Err(MfaError::CeremonyInvalid) }
    }
}

/// A ceremony of one kind is never accepted for another.
fn purpose<S>() -> String {
    format!("{PURPOSE}/{}", std::any::type_name::<S>())
}

impl RelyingParty {
    /// The relying party for the pages at `public_url`; none if its host is an IP address, to which
    /// passkeys cannot be bound.
    pub fn of(public_url: &str, name: &str) -> Option<Self> {
        let url = Url::parse(public_url).ok()?;
        let domain = url.domain()?;
        let built =
            WebauthnBuilder::new(domain, &url).and_then(|builder| builder.rp_name(name).build());
        built.ok().map(Self)
    }

    /// Options for adding a passkey of `user`, who has `others`. Fails with
    /// [`MfaError::TooManyPasskeys`], or with [`MfaError::CeremonyInvalid`] if the library does.
    pub fn begin_adding(
        &self,
        clock: &Clock,
        ttl: Duration,
        user: &User,
        others: &[Passkey],
    ) -> Result<(Options, Ceremony<Adding>), MfaError> {
        if others.len() >= PASSKEYS_MAX {
            return Err(MfaError::TooManyPasskeys);
        }
        let excluded = others
            .iter()
            .map(|passkey| Ok(passkey.credential()?.cred_id().clone()))
            .collect::<Result<_, MfaError>>()?;
        let begun = self.0.start_passkey_registration(
            user.id.uuid(),
            user.email.as_str(),
            &user.name,
            Some(excluded),
        );
        let (options, state) = begun.map_err(|error| refused(&error, MfaError::CeremonyInvalid))?;
        let mut options = Options::new(&options.public_key)?;
        // A discoverable passkey can sign in without an email address; if the authenticator has no
        // room for one, it is still a second factor.
        options.0["authenticatorSelection"]["residentKey"] = "preferred".into();
        Ok((options, Ceremony::new(clock, ttl, Adding { user: user.id, state })))
    }

    /// Verifies a new passkey for `owner`, to be [added](Add). Fails with
    /// [`MfaError::CeremonyInvalid`].
    pub fn finish_adding(
        &self,
        ceremony: &Ceremony<Adding>,
        owner: UserId,
        answer: &Attestation,
    ) -> Result<(Answered, NewPasskey), MfaError> {
        if ceremony.state.user != owner {
            return Err(MfaError::CeremonyInvalid);
        }
        let credential = self
            .0
            .finish_passkey_registration(answer, &ceremony.state.state)
            .map_err(|error| refused(&error, MfaError::CeremonyInvalid))?;
        Ok((ceremony.answered(), NewPasskey(credential)))
    }

    /// Options for using any passkey of any user. Fails with [`MfaError::PasskeyInvalid`] if the
    /// library does.
    pub fn begin_using(
        &self,
        clock: &Clock,
        ttl: Duration,
    ) -> Result<(Options, Ceremony<Using>), MfaError> {
        let (options, state) = self
            .0
            .start_discoverable_authentication()
            .map_err(|error| refused(&error, MfaError::PasskeyInvalid))?;
        Ok((Options::new(&options.public_key)?, Ceremony::new(clock, ttl, state)))
    }

    /// Verifies the use of a passkey and finds its row. Fails with [`MfaError::PasskeyInvalid`].
    pub async fn finish_using(
        &self,
        store: &Store,
        ceremony: Ceremony<Using>,
        answer: &Assertion,
    ) -> Result<Used, MfaError> {
        let answered = ceremony.answered();
        let (user, credential_id) = self
            .0
            .identify_discoverable_authentication(answer)
            .map_err(|error| refused(&error, MfaError::PasskeyInvalid))?;
        let filter = doc! { "credential_id": URL_SAFE_NO_PAD.encode(credential_id), "user_id": UserId::from_uuid(user) };
        let passkey = store
            .records::<Passkey>(PlatformScope)
            .find(filter)
            .await?
            .ok_or(MfaError::PasskeyInvalid)?;
        let result = self
            .0
            .finish_discoverable_authentication_v2(answer, ceremony.state, &passkey.credential()?)
            .map_err(|error| refused(&error, MfaError::PasskeyInvalid))?;
        Ok(Used { passkey, result, ceremony: Some(answered) })
    }

    /// Options for using one of `passkeys` in addition to a password. Fails with
    /// [`MfaError::PasskeyInvalid`] if the library does.
    pub fn begin_second(
        &self,
        passkeys: &[Passkey],
    ) -> Result<(Options, PasskeyAuthentication), MfaError> {
        let credentials =
            passkeys.iter().map(Passkey::credential).collect::<Result<Vec<_>, _>>()?;
        let (options, state) = self
            .0
            .start_passkey_authentication(&credentials)
            .map_err(|error| refused(&error, MfaError::PasskeyInvalid))?;
        Ok((Options::new(&options.public_key)?, state))
    }

    /// Verifies the use of one of `passkeys`. Fails with [`MfaError::PasskeyInvalid`].
    pub fn finish_second(
        &self,
        passkeys: Vec<Passkey>,
        state: &PasskeyAuthentication,
        answer: &Assertion,
    ) -> Result<Used, MfaError> {
        let result = self
            .0
            .finish_passkey_authentication(answer, state)
            .map_err(|error| refused(&error, MfaError::PasskeyInvalid))?;
        let credential_id = URL_SAFE_NO_PAD.encode(result.cred_id());
        let passkey = passkeys
            .into_iter()
            .find(|passkey| passkey.credential_id == credential_id)
            .ok_or(MfaError::PasskeyInvalid)?;
        Ok(Used { passkey, result, ceremony: None })
    }
}

/// The library's reason is only logged; the user just learns that the passkey was not accepted.
fn refused(error: &WebauthnError, told: MfaError) -> MfaError {
    tracing::info!(%error, "passkey_refused");
    told
}

impl<S> Ceremony<S> {
    fn answered(&self) -> Answered {
        Answered { id: self.id, expires_at: self.expires_at }
    }
}

impl Answered {
    /// Marks the ceremony as used.
    pub(crate) async fn take(self, txn: &mut Txn) -> Result<(), MfaError> {
        let used = UsedCeremony { id: self.id, expires_at: self.expires_at };
        txn.records::<UsedCeremony>(PlatformScope).insert(&used).await.map_err(
            |error| match error {
                error if is_duplicate(&error, "_id_") => MfaError::CeremonyInvalid,
                error => error.into(),
            },
        )
    }
}

/// A verified new passkey, not stored yet.
#[derive(Debug, Clone)]
pub struct NewPasskey(Credential);

/// A passkey whose use was verified.
#[derive(Debug, Clone)]
pub struct Used {
    passkey: Passkey,
    result: AuthenticationResult,
    /// None if the state of the ceremony is used up elsewhere.
    ceremony: Option<Answered>,
}

impl Used {
    /// The owner of the passkey.
    pub fn user(&self) -> UserId {
        self.passkey.user_id
    }

    /// Records the use and marks its ceremony as used. Fails if the passkey was removed in the
    /// meantime, or used concurrently: then one of the two is a copy.
    pub(crate) async fn take(&self, txn: &mut Txn) -> Result<(), MfaError> {
        if let Some(ceremony) = self.ceremony {
            ceremony.take(txn).await?;
        }
        let mut credential = self.passkey.credential()?;
        credential.update_credential(&self.result);
        let filter = doc! { "_id": self.passkey.id, "user_id": self.passkey.user_id, "credential": &self.passkey.credential };
        let update = doc! { "$set": { "credential": &encoded(&credential)?, "last_used_at": txn.clock().now() } };
        let is_there =
            txn.records::<Passkey>(PlatformScope).find_and_update(filter, update).await?.is_some();
        if is_there { Ok(()) } else { Err(MfaError::PasskeyInvalid) }
    }
}

/// A change authorised by a passkey, whose use is recorded together with it.
#[derive(Debug)]
pub struct ByPasskey<C> {
    pub used: Used,
    pub change: C,
}

impl<C: Change<Error = SignInError>> Change for ByPasskey<C> {
    type Output = C::Output;
    type Error = SignInError;

    async fn apply(&self, txn: &mut Txn) -> Result<C::Output, SignInError> {
        self.used.take(txn).await?;
        self.change.apply(txn).await
    }
}

impl Passkey {
    /// The passkeys of `user`, oldest first.
    pub async fn all_of(store: &Store, user: UserId) -> Result<Vec<Self>, DbError> {
        let limit = i64::try_from(PASSKEYS_MAX).unwrap_or(i64::MAX);
        store
            .records::<Self>(PlatformScope)
            .list(doc! { "user_id": user }, doc! { "_id": 1 }, limit)
            .await
    }

    fn credential(&self) -> Result<Credential, MfaError> {
        serde_json::from_slice(&self.credential.bytes)
            .map_err(|error| DbError::Shape(error.to_string()).into())
    }
}

fn encoded(credential: &Credential) -> Result<Binary, DbError> {
    let bytes =
        serde_json::to_vec(credential).map_err(|error| DbError::Shape(error.to_string()))?;
    Ok(Binary { subtype: BinarySubtype::Generic, bytes })
}

/// Adds a verified new passkey. Returns recovery codes if it is the user's first second factor.
#[derive(Debug)]
pub struct Add<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    pub owner: Owner,
    pub ceremony: Answered,
    pub passkey: NewPasskey,
    /// Name given by the user.
    pub name: Name,
}

impl Change for Add<'_> {
    type Output = (Passkey, Option<Vec<String>>);
    type Error = MfaError;

    async fn apply(&self, txn: &mut Txn) -> Result<Self::Output, MfaError> {
        self.ceremony.take(txn).await?;
        let credential = &self.passkey.0;
        let passkey = Passkey {
            id: txn.clock().id(),
            user_id: self.owner.user,
            credential_id: URL_SAFE_NO_PAD.encode(credential.cred_id()),
            credential: encoded(credential)?,
            name: self.name.clone(),
            created_at: txn.clock().now(),
            last_used_at: None,
        };
        txn.records::<Passkey>(PlatformScope).insert(&passkey).await.map_err(
            |error| match error {
                error if is_duplicate(&error, CREDENTIAL_INDEX) => MfaError::CeremonyInvalid,
                error => error.into(),
            },
        )?;
        // This writes the account's row, so two concurrent additions cannot both be the last
        // allowed one.
        let codes = super::added(txn, self.key, self.owner, MfaChange::PasskeyAdded).await?;
        let count = txn
            .records::<Passkey>(PlatformScope)
            .count(doc! { "user_id": self.owner.user })
            .await?;
        if count > PASSKEYS_MAX as u64 {
            Err(MfaError::TooManyPasskeys)
        } else {
            Ok((passkey, codes))
        }
    }
}

/// Removes a passkey.
#[derive(Debug, Clone, Copy)]
pub struct Remove {
    pub owner: Owner,
    pub passkey: PasskeyId,
}

impl Change for Remove {
    type Output = ();
    type Error = MfaError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), MfaError> {
        let filter = doc! { "_id": self.passkey, "user_id": self.owner.user };
        txn.records::<Passkey>(PlatformScope).take(filter).await?.ok_or(MfaError::NoSuchPasskey)?;
        Ok(super::removed(txn, self.owner, MfaChange::PasskeyRemoved).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> MasterKey {
        MasterKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap()
    }

    #[test]
    fn an_ip_address_cannot_be_a_relying_party() {
        assert!(RelyingParty::of("http://127.0.0.1:4000", "Tenantry").is_none());
        assert!(RelyingParty::of("http://localhost:4000", "Tenantry").is_some());
        assert!(RelyingParty::of("https://app.example.com", "Tenantry").is_some());
    }

    #[test]
    fn a_ceremony_is_valid_for_its_kind_and_for_a_limited_time() {
        let clock = Clock::manual(DateTime::from_millis(0));
        let party = RelyingParty::of("https://app.example.com", "Tenantry").unwrap();
        let (_, ceremony) = party.begin_using(&clock, Duration::from_mins(1)).unwrap();
        let sealed = ceremony.seal(&key()).unwrap();
        let opened = |text: &str, now: i64| {
            Ceremony::<Using>::open(&key(), text, DateTime::from_millis(now))
        };
        assert!(opened(&sealed, 59_999).is_ok());
        assert!(opened(&sealed, 60_000).is_err());
        assert!(opened(&sealed[1..], 0).is_err());
        assert!(opened("", 0).is_err());
        assert!(Ceremony::<Adding>::open(&key(), &sealed, DateTime::from_millis(0)).is_err());
    }
}
