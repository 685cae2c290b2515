//! Access tokens: JWTs (RFC 7519) signed with `Ed25519` (`EdDSA`, RFC 8037), and the `JWKS` with
//! which others verify them.
//!
//! A token's header never decides how it is verified: the algorithm is fixed, and the key is one of
//! ours, found by `kid`. The headers `jwk`, `jku` and `x5u` are ignored.

use std::{collections::HashMap, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{
    clock::{Clock, later, rfc3339},
    crypto::{MasterKey, SealError},
    db::{Change, Data, DbError, PlatformScope, Record, Store, Txn, schema::Index},
    id::{SessionId, SigningKeyId, TenantId, UserId},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use mongodb::bson::{Binary, DateTime, doc, spec::BinarySubtype};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::activity::{Action, Entry};

/// Tolerated difference between the clocks of two machines.
const CLOCK_SKEW: Duration = Duration::from_secs(5);
/// Purpose of the key that encrypts signing keys.
const SEAL_PURPOSE: &str = "signing-key";
/// How long a process may keep using its key after another one became active.
const ROTATION_SLACK: Duration = Duration::from_mins(1);
/// Maximum number of keys; a rotation creates one, which is removed after the next rotation.
const KEYS_MAX: i64 = 100;
/// Audience of access tokens (`aud`).
const AUDIENCE: &str = "tenantry-api";

/// The claims of an access token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// Issuer: the installation's public URL.
    pub iss: String,
    /// Audience.
    pub aud: String,
    /// The user.
    pub sub: UserId,
    /// The session.
    pub sid: SessionId,
    /// The tenant; not in the token if the session is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<TenantId>,
    /// Time of issue, in seconds since the epoch.
    pub iat: i64,
    /// Expiry, in seconds since the epoch.
    pub exp: i64,
}

/// A key pair as stored, the private half encrypted with the master key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SigningKey {
    /// The `kid`.
    #[serde(rename = "_id")]
    pub id: SigningKeyId,
    /// PKCS#8, encrypted.
    sealed_private: Binary,
    /// 32 bytes.
    public: Binary,
    /// When it was created.
    pub created_at: DateTime,
    /// When it starts to sign, after it has been published for long enough that every verifier
    /// knows it. Immediately if none.
    #[serde(default)]
    pub activates_at: Option<DateTime>,
    /// When it stops to verify, because the last token that it signed has expired. The row is
    /// removed some time later.
    #[serde(default)]
    pub retires_at: Option<DateTime>,
}

impl Record for SigningKey {
    const COLLECTION: &'static str = "signing_keys";
    const DATA: Data = Data::of_platform();
    /// Removes keys that are no longer needed.
    const INDEXES: &'static [Index] =
        &[Index::expiring("signing_keys_ttl", &[("retires_at", 1)], Duration::ZERO)];
}

/// What a key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// Published, but does not sign yet.
    Pending,
    /// Signs and verifies.
    Active,
    /// Verifies what it signed before its successor took over.
    Retiring,
    /// No longer verifies.
    Retired,
}

impl KeyState {
    /// Its name in commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
        }
    }
}

/// Why a token could not be signed, or a key not obtained.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The stored key was encrypted with another master key.
    #[error("a signing key in the database cannot be decrypted with auth.master_key: {0}")]
    Seal(#[from] SealError),
    /// The key pair could not be created or parsed.
    #[error("a signing key could not be created or parsed: {0}")]
    Key(String),
}

impl SigningKey {
    /// A new key pair that signs from `activates_at` on.
    fn generate(
        clock: &Clock,
        master: &MasterKey,
        activates_at: DateTime,
    ) -> Result<Self, SigningError> {
        let pair = Ed25519KeyPair::generate().map_err(key_error)?;
        let private = pair.to_pkcs8v1().map_err(key_error)?;
        let sealed = master.seal(SEAL_PURPOSE, private.as_ref())?;
        Ok(Self {
            id: clock.id(),
            sealed_private: binary(sealed),
            public: binary(pair.public_key().as_ref().to_vec()),
            created_at: clock.now(),
            activates_at: Some(activates_at),
            retires_at: None,
        })
    }

    /// The state of the key at `now`, given all keys.
    pub fn state(&self, all: &[Self], now: DateTime) -> KeyState {
        if self.is_retired(now) {
            KeyState::Retired
        } else if !self.is_activated(now) {
            KeyState::Pending
        } else if Self::active(all, now).is_some_and(|active| active.id == self.id) {
            KeyState::Active
        } else {
            KeyState::Retiring
        }
    }

    /// The one of `all` that signs at `now`: the last to be activated.
    fn active(all: &[Self], now: DateTime) -> Option<&Self> {
        let good = all.iter().filter(|key| key.is_activated(now) && !key.is_retired(now));
        good.max_by_key(|key| (key.activates_at, key.id.uuid()))
    }

    fn is_activated(&self, now: DateTime) -> bool {
        self.activates_at.is_none_or(|at| at <= now)
    }

    fn is_retired(&self, now: DateTime) -> bool {
        self.retires_at.is_some_and(|at| at <= now)
    }

    /// Every stored key, oldest first.
    pub async fn all(store: &Store) -> Result<Vec<Self>, DbError> {
        store.records::<Self>(PlatformScope).list(doc! {}, doc! { "_id": 1 }, KEYS_MAX).await
    }

    /// Creates the first key if there is none. Processes that start together may each create one;
    /// all are published and verify.
    pub async fn ensure(store: &Store, master: &MasterKey) -> Result<Vec<Self>, SigningError> {
        let keys = Self::all(store).await?;
        if !keys.is_empty() {
            return Ok(keys);
        }
        let key = Self::generate(store.clock(), master, store.clock().now())?;
        store.records::<Self>(PlatformScope).insert(&key).await?;
        Ok(Self::all(store).await?)
    }
}

/// Why the next key was not created.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The key of an earlier rotation has not signed yet.
    #[error(
        "a rotation is pending: {key} signs from {}; rotate again afterwards, or revoke it first",
        rfc3339(*activates_at)
    )]
    Pending {
        /// The key that is pending.
        key: SigningKeyId,
        /// When it starts to sign.
        activates_at: DateTime,
    },
    /// The key could not be created or stored.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Creates the next key, which signs after a while; the others verify until their last tokens have
/// expired.
#[derive(Debug)]
pub struct RotateSigningKey<'a> {
    /// The installation's master key.
    pub master: &'a MasterKey,
    /// How long the key is published before it signs.
    pub lead: Duration,
    /// Lifetime of a token.
    pub token_ttl: Duration,
}

impl Change for RotateSigningKey<'_> {
    type Output = SigningKey;
    type Error = RotateError;

    async fn apply(&self, txn: &mut Txn) -> Result<SigningKey, RotateError> {
        let now = txn.clock().now();
        if let Some((key, activates_at)) = pending(txn, now).await? {
            return Err(RotateError::Pending { key, activates_at });
        }
        let activates_at = later(now, self.lead);
        let key = SigningKey::generate(txn.clock(), self.master, activates_at)?;
        // Other processes sign with the old one until they reload the keys.
        let retires_at = later(activates_at, self.token_ttl + CLOCK_SKEW + ROTATION_SLACK);
        let retire = doc! { "$set": { "retires_at": retires_at } };
        txn.records::<SigningKey>(PlatformScope)
            .update_all(doc! { "retires_at": null }, retire)
            .await?;
        txn.records::<SigningKey>(PlatformScope).insert(&key).await?;
        Entry::new(Action::SigningKeyRotated, key.id).record_on_platform(txn).await?;
        Ok(key)
    }
}

/// The key that does not sign yet, if any, and when it will.
async fn pending(
    txn: &mut Txn,
    now: DateTime,
) -> Result<Option<(SigningKeyId, DateTime)>, DbError> {
    let filter = doc! { "activates_at": { "$gt": now } };
    let found = txn.records::<SigningKey>(PlatformScope).find(filter).await?;
    Ok(found.and_then(|key| Some((key.id, key.activates_at?))))
}

/// Revokes a key that may be known to others: tokens that it signed become invalid. If it was the
/// active one, a new one signs immediately.
#[derive(Debug)]
pub struct RevokeSigningKey<'a> {
    /// The installation's master key.
    pub master: &'a MasterKey,
    pub key: SigningKeyId,
}

impl Change for RevokeSigningKey<'_> {
    /// The key that signs now; none if there was none to revoke.
    type Output = Option<SigningKeyId>;
    type Error = SigningError;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<SigningKeyId>, SigningError> {
        let Some(revoked) =
            txn.records::<SigningKey>(PlatformScope).take(doc! { "_id": self.key }).await?
        else {
            return Ok(None);
        };
        Entry::new(Action::SigningKeyRevoked, self.key).record_on_platform(txn).await?;
        let now = txn.clock().now();
        if !revoked.is_activated(now)
            && let Some(active) = keep_active(txn, now).await?
        {
            return Ok(Some(active));
        }
        // A pending key signs now; verifiers that do not know it yet will look it up.
        let (staying, activate) =
            (doc! { "retires_at": null }, doc! { "$min": { "activates_at": now } });
        if let Some(next) =
            txn.records::<SigningKey>(PlatformScope).find_and_update(staying, activate).await?
        {
            return Ok(Some(next.id));
        }
        let key = SigningKey::generate(txn.clock(), self.master, now)?;
        txn.records::<SigningKey>(PlatformScope).insert(&key).await?;
        Entry::new(Action::SigningKeyRotated, key.id).record_on_platform(txn).await?;
        Ok(Some(key.id))
    }
}

/// The active key stays active, permanently if no other one follows.
async fn keep_active(txn: &mut Txn, now: DateTime) -> Result<Option<SigningKeyId>, DbError> {
    let left = txn.records::<SigningKey>(PlatformScope).list(doc! {}, doc! {}, KEYS_MAX).await?;
    let Some(active) = SigningKey::active(&left, now).map(|key| key.id) else { return Ok(None) };
    if left.iter().all(|key| key.retires_at.is_some()) {
        let stay = doc! { "$set": { "retires_at": null } };
        txn.records::<SigningKey>(PlatformScope).update(doc! { "_id": active }, stay).await?;
    }
    Ok(Some(active))
}

/// Signs access tokens.
pub struct Issuer {
    id: SigningKeyId,
    key: EncodingKey,
    iss: String,
    ttl: Duration,
}

impl Issuer {
    /// Signs with the one of `keys` that is active at `now`. Fails if there is none, or it cannot
    /// be decrypted with `master`.
    pub fn new(
        keys: &[SigningKey],
        master: &MasterKey,
        issuer: &str,
        ttl: Duration,
        now: DateTime,
    ) -> Result<Self, SigningError> {
        let active = SigningKey::active(keys, now)
            .ok_or_else(|| SigningError::Key("no key is active".to_owned()))?;
        let private = master.open(SEAL_PURPOSE, &active.sealed_private.bytes)?;
        Ok(Self {
            id: active.id,
            key: EncodingKey::from_ed_der(&private),
            iss: issuer.to_owned(),
            ttl,
        })
    }

    /// Lifetime of a token.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A token for a session.
    pub fn issue(
        &self,
        now: DateTime,
        user: UserId,
        tenant: Option<TenantId>,
        session: SessionId,
    ) -> Result<String, SigningError> {
        let iat = now.timestamp_millis() / 1_000;
        let claims = AccessClaims {
            iss: self.iss.clone(),
            aud: AUDIENCE.to_owned(),
            sub: user,
            sid: session,
            tid: tenant,
            iat,
            exp: iat.saturating_add(i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX)),
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.id.to_string());
        header.typ = Some("at+jwt".to_owned());
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(key_error)
    }
}

/// Verifies access tokens; needs no secret.
pub struct Verifier {
    keys: HashMap<String, DecodingKey>,
    jwks: serde_json::Value,
    validation: Validation,
}

impl Verifier {
    /// Accepts tokens of `issuer` signed with any of `keys` that is not retired at `now`. Fails if
    /// a public key is invalid.
    pub fn new(keys: &[SigningKey], issuer: &str, now: DateTime) -> Result<Self, SigningError> {
        let keys: Vec<&SigningKey> = keys.iter().filter(|key| !key.is_retired(now)).collect();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.leeway = CLOCK_SKEW.as_secs();
        // Expiry is checked against our own clock, in `verify`.
        validation.validate_exp = false;
        // Ours have none, but it must be respected if present.
        validation.validate_nbf = true;
        let public = |key: &SigningKey| URL_SAFE_NO_PAD.encode(&key.public.bytes);
        let decoding = |key: &SigningKey| {
            let decoding = DecodingKey::from_ed_components(&public(key)).map_err(key_error)?;
            Ok((key.id.to_string(), decoding))
        };
        let jwks =
            keys.iter().map(|key| json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key.id, "x": public(key) }));
        Ok(Self {
            jwks: json!({ "keys": jwks.collect::<Vec<_>>() }),
            keys: keys.into_iter().map(decoding).collect::<Result<_, SigningError>>()?,
            validation,
        })
    }

    /// The claims of `token`, if we signed it and it is valid at `now`.
    pub fn verify(&self, token: &str, now: DateTime) -> Option<AccessClaims> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        let right_kind = header.alg == Algorithm::EdDSA && header.typ.as_deref() == Some("at+jwt");
        let key = self.keys.get(header.kid.as_deref()?).filter(|_| right_kind)?;
        let claims =
            jsonwebtoken::decode::<AccessClaims>(token, key, &self.validation).ok()?.claims;
        let now = now.timestamp_millis() / 1_000;
        let skew = i64::try_from(CLOCK_SKEW.as_secs()).unwrap_or_default();
        (claims.exp > now && claims.iat <= now + skew).then_some(claims)
    }

    /// Whether a token names an unknown key, such as one that another process has since created.
    pub fn names_unknown_key(&self, token: &str) -> bool {
        let header = jsonwebtoken::decode_header(token);
        header.is_ok_and(|header| header.kid.is_some_and(|kid| !self.keys.contains_key(&kid)))
    }

    /// The public keys (RFC 7517).
    pub fn jwks(&self) -> &serde_json::Value {
        &self.jwks
    }
}

fn binary(bytes: Vec<u8>) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes }
}

fn key_error(error: impl std::fmt::Display) -> SigningError {
    SigningError::Key(error.to_string())
}
