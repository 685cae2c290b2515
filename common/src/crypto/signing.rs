//! Access tokens: JWTs (RFC 7519) signed with `Ed25519` (`EdDSA`, RFC 8037), and the `JWKS` that
//! lets others verify them.
//!
//! A token's header never chooses how it is checked: the algorithm is fixed and the key is one of
//! ours, found by `kid`. `jwk`, `jku` and `x5u` headers are not looked at.

use std::{collections::HashMap, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use mongodb::bson::{Binary, DateTime, doc, spec::BinarySubtype};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{MasterKey, SealError};
use crate::{
    db::{DbError, PlatformOwned, PlatformScope, Record, Store},
    id::{SessionId, SigningKeyId, TenantId, UserId},
};

/// Clocks of two machines may differ by this much before a fresh token is refused.
const CLOCK_SKEW: Duration = Duration::from_secs(5);
/// What the master key seals signing keys for.
const SEAL_PURPOSE: &str = "signing-key";
/// Who access tokens are for (`aud`).
const AUDIENCE: &str = "tenantry-api";

/// What an access token says.
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
    /// The tenant.
    pub tid: TenantId,
    /// Issued at, seconds since the epoch.
    pub iat: i64,
    /// Good until, seconds since the epoch.
    pub exp: i64,
}

/// A key pair as stored: the private half sealed with the master key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SigningKey {
    /// The `kid`.
    #[serde(rename = "_id")]
    pub id: SigningKeyId,
    /// PKCS#8, sealed.
    sealed_private: Binary,
    /// 32 bytes.
    public: Binary,
    /// When it was made; the newest signs.
    pub created_at: DateTime,
}

impl Record for SigningKey {
    const COLLECTION: &'static str = "signing_keys";
}
impl PlatformOwned for SigningKey {}

/// Why a token could not be signed or a key not be had.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The stored key was sealed with another master key.
    #[error("a signing key in the database does not open with auth.master_key: {0}")]
    Seal(#[from] SealError),
    /// The key pair could not be made or read.
    #[error("a signing key could not be made or read: {0}")]
    Key(String),
}

impl SigningKey {
    /// A new key pair.
    fn generate(store: &Store, master: &MasterKey) -> Result<Self, SigningError> {
        let pair = Ed25519KeyPair::generate().map_err(key_error)?;
        let private = pair.to_pkcs8v1().map_err(key_error)?;
        let sealed = master.seal(SEAL_PURPOSE, private.as_ref())?;
        Ok(Self {
            id: store.ambient().id(),
            sealed_private: binary(sealed),
            public: binary(pair.public_key().as_ref().to_vec()),
            created_at: store.ambient().now(),
        })
    }

    /// Every key that tokens may be signed with, oldest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn all(store: &Store) -> Result<Vec<Self>, DbError> {
        store.records::<Self>(PlatformScope).list(doc! {}, doc! { "_id": 1 }, 100).await
    }

    /// Makes the first key when there is none. Processes that start together may each make one;
    /// all are published and any verifies.
    ///
    /// # Errors
    /// When the store or the generator fails.
    pub async fn ensure(store: &Store, master: &MasterKey) -> Result<Vec<Self>, SigningError> {
        let keys = Self::all(store).await?;
        if !keys.is_empty() {
            return Ok(keys);
        }
        let key = Self::generate(store, master)?;
        store.records::<Self>(PlatformScope).insert(&key).await?;
        Ok(Self::all(store).await?)
    }
}

/// Signs access tokens.
pub struct Issuer {
    id: SigningKeyId,
    key: EncodingKey,
    iss: String,
    ttl: Duration,
}

impl Issuer {
    /// Signs with the newest of `keys`.
    ///
    /// # Errors
    /// When there is none, or it does not open with `master`.
    pub fn new(keys: &[SigningKey], master: &MasterKey, issuer: &str, ttl: Duration) -> Result<Self, SigningError> {
        let newest = keys.last().ok_or_else(|| SigningError::Key("there is none".to_owned()))?;
        let private = master.open(SEAL_PURPOSE, &newest.sealed_private.bytes)?;
        Ok(Self { id: newest.id, key: EncodingKey::from_ed_der(&private), iss: issuer.to_owned(), ttl })
    }

    /// How long a token is good for.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A token for one session.
    ///
    /// # Errors
    /// When the key refuses to sign.
    pub fn issue(&self, now: DateTime, user: UserId, tenant: TenantId, session: SessionId) -> Result<String, SigningError> {
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

/// Checks access tokens; needs no secret.
pub struct Verifier {
    keys: HashMap<String, DecodingKey>,
    jwks: serde_json::Value,
    validation: Validation,
}

impl Verifier {
    /// Accepts tokens of `issuer` signed with any of `keys`.
    ///
    /// # Errors
    /// When a public key is not one.
    pub fn new(keys: &[SigningKey], issuer: &str) -> Result<Self, SigningError> {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.leeway = CLOCK_SKEW.as_secs();
        // Expiry is checked against our own clock handle, in `verify`.
        validation.validate_exp = false;
        let public = |key: &SigningKey| URL_SAFE_NO_PAD.encode(&key.public.bytes);
        let decoding = |key: &SigningKey| {
            let decoding = DecodingKey::from_ed_components(&public(key)).map_err(key_error)?;
            Ok((key.id.to_string(), decoding))
        };
        let jwks =
            keys.iter().map(|key| json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key.id, "x": public(key) }));
        Ok(Self {
            jwks: json!({ "keys": jwks.collect::<Vec<_>>() }),
            keys: keys.iter().map(decoding).collect::<Result<_, SigningError>>()?,
            validation,
        })
    }

    /// What `token` says, if we signed it and it is good at `now`.
    pub fn verify(&self, token: &str, now: DateTime) -> Option<AccessClaims> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        let right_kind = header.alg == Algorithm::EdDSA && header.typ.as_deref() == Some("at+jwt");
        let key = self.keys.get(header.kid.as_deref()?).filter(|_| right_kind)?;
        let claims = jsonwebtoken::decode::<AccessClaims>(token, key, &self.validation).ok()?.claims;
        let now = now.timestamp_millis() / 1_000;
        let skew = i64::try_from(CLOCK_SKEW.as_secs()).unwrap_or_default();
        (claims.exp > now && claims.iat <= now + skew).then_some(claims)
    }

    /// Whether a token names a key that is not known here: one made by another process since.
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
