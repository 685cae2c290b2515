//! API keys, and the secrets with which requests of a key are signed.
//!
//! A key is `tk_`, 32 random characters, and a checksum of both (CRC-32, as in GitHub's tokens). So
//! secret scanners recognise a leaked one without asking us, and a mistyped one is rejected without
//! a database query. The checksum is not a proof: anyone can compute it.

use std::fmt;

use aws_lc_rs::hmac;
use mongodb::bson::Bson;
use serde::{Deserialize, Serialize};

use super::{MasterKey, SealError};
use crate::{
    clock::Clock,
    id::{ApiKeyId, Prefix},
};

/// Recognised by secret scanners.
const PREFIX: &str = "tk_";
/// About 190 random bits.
const RANDOM_CHARS: usize = 32;
const CHECKSUM_CHARS: usize = 6;
/// Characters of a key.
const KEY_CHARS: usize = PREFIX.len() + RANDOM_CHARS + CHECKSUM_CHARS;
/// Random characters that are shown so that people recognise a key. With the last four, which are
/// part of the checksum, they leave more than 128 bits unknown.
const SHOWN_FIRST: usize = 4;
const SHOWN_LAST: usize = 4;

/// Prefix of signing secrets.
const SIGNING_PREFIX: &str = "tks_";
/// About 256 random bits, the length of the digest (RFC 2104 §3).
const SIGNING_CHARS: usize = 43;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Bytes below this number are divided among the characters evenly; others are drawn again.
const FAIR_BYTES: u8 = 248;
/// Random bytes drawn at once.
const DRAWN: usize = 64;

/// An API key as its holder has it: a secret. Its `Debug` output is redacted.
#[derive(Clone, PartialEq, Eq)]
pub struct PlainApiKey(String);

/// SHA-256 of an API key in base64url: the form that is stored. Keys contain about 190 unguessable
/// bits, so a fast hash is enough (unlike for passwords).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApiKeyHash(String);

impl PlainApiKey {
    /// A new key.
    pub fn generate(clock: &Clock) -> Self {
        Self::with_checksum(&random_text(clock, RANDOM_CHARS))
    }

    fn with_checksum(random: &str) -> Self {
        let unchecked = format!("{PREFIX}{random}");
        let checksum = checksum(&unchecked);
        Self(unchecked + &checksum)
    }

    /// The key in `text`; none if it does not have the form of our keys, or its checksum is wrong.
    pub fn parse(text: &str) -> Option<Self> {
        let is_alike = text.len() == KEY_CHARS
            && text.starts_with(PREFIX)
            && text[PREFIX.len()..].bytes().all(|byte| byte.is_ascii_alphanumeric());
        let (unchecked, given) = text.split_at_checked(KEY_CHARS - CHECKSUM_CHARS)?;
        (is_alike && checksum(unchecked) == given).then(|| Self(text.to_owned()))
    }

    /// Whether `text` is meant to be an API key, and not an access token.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// The text for its holder.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The hash to store.
    pub fn hash(&self) -> ApiKeyHash {
        ApiKeyHash(super::fingerprint(self.0.as_bytes()))
    }

    /// Its first characters, by which people recognise it.
    pub fn prefix(&self) -> &str {
        &self.0[..PREFIX.len() + SHOWN_FIRST]
    }

    /// Its last four characters, by which people recognise it.
    pub fn last_four(&self) -> &str {
        &self.0[KEY_CHARS - SHOWN_LAST..]
    }
}

impl fmt::Debug for PlainApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainApiKey([redacted])")
    }
}

impl From<ApiKeyHash> for Bson {
    fn from(hash: ApiKeyHash) -> Self {
        Self::String(hash.0)
    }
}

/// The secret with which the requests of a key are signed. Its `Debug` output is redacted.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(String);

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 32;

impl SigningSecret {
    /// A new secret.
    pub fn generate(clock: &Clock) -> Self {
        Self(format!("{SIGNING_PREFIX}{}", random_text(clock, SIGNING_CHARS)))
    }

    /// The text for its holder.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Encrypts it for one key: moved to the row of another key, it does not open.
    pub fn seal(&self, key: &MasterKey, id: ApiKeyId) -> Result<Vec<u8>, SealError> {
        key.seal(&sealing_purpose(id), self.0.as_bytes())
    }

    /// Decrypts the secret of a key.
    pub fn open(key: &MasterKey, id: ApiKeyId, sealed: &[u8]) -> Result<Self, SealError> {
        let plain = key.open(&sealing_purpose(id), sealed)?;
        String::from_utf8(plain).map(Self).map_err(|_| SealError)
    }

    /// Whether `signature` is the HMAC-SHA256 of `message` under the text of the secret, compared in
    /// constant time.
    pub fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes());
        hmac::verify(&key, message, signature).is_ok()
    }

    /// The HMAC-SHA256 of `message`, as clients compute it.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes());
        let mut mac = [0; SIGNATURE_BYTES];
        mac.copy_from_slice(hmac::sign(&key, message).as_ref());
        mac
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret([redacted])")
    }
}

impl From<&str> for SigningSecret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

fn sealing_purpose(id: ApiKeyId) -> String {
    format!("api-key-signing/{}_{}", crate::id::ApiKey::PREFIX, id.uuid().simple())
}

/// Random characters, each equally likely.
fn random_text(clock: &Clock, chars: usize) -> String {
    let mut text = String::with_capacity(chars);
    while text.len() < chars {
        let drawn = clock.random::<DRAWN>();
        let fair = drawn.into_iter().filter(|byte| *byte < FAIR_BYTES);
        let drawn = fair.map(|byte| char::from(BASE62[usize::from(byte) % BASE62.len()]));
        text.extend(drawn.take(chars - text.len()));
    }
    text
}

/// CRC-32 (ISO-HDLC) in base62, with leading zeros.
fn checksum(text: &str) -> String {
    let mut rest = u64::from(crc32fast::hash(text.as_bytes()));
    let base = BASE62.len() as u64;
    let mut digits = ['0'; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        let value = usize::try_from(rest % base).unwrap_or_default();
        *digit = char::from(BASE62[value]);
        rest /= base;
    }
    digits.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The example in `docs/api-keys.md`.
    #[test]
    fn the_checksum_is_that_of_the_documentation() {
        let key = PlainApiKey::with_checksum("0123456789ABCDEFGHIJKLMNOPQRSTUV");
        assert_eq!(key.expose(), "tk_0123456789ABCDEFGHIJKLMNOPQRSTUV1g2LEg");
    }

    #[test]
    fn a_key_parses_from_its_own_text_only() {
        let key = PlainApiKey::generate(&Clock::system());
        let text = key.expose();
        assert_eq!(text.len(), 41);
        assert_eq!(PlainApiKey::parse(text), Some(key.clone()));
        assert_eq!((key.prefix(), key.last_four()), (&text[..7], &text[37..]));
        for at in 0..text.len() {
            let mut typed = text.as_bytes().to_vec();
            typed[at] = if typed[at] == b'x' { b'y' } else { b'x' };
            let typed = String::from_utf8(typed).unwrap();
            assert_eq!(PlainApiKey::parse(&typed), None, "mistyped at {at}: {typed}");
        }
        for length in 0..text.len() {
            assert_eq!(PlainApiKey::parse(&text[..length]), None, "truncated to {length}");
        }
        let swapped = format!("{}{}{}", &text[..10], &text[11..12], &text[10..11]) + &text[12..];
        assert!(swapped == text || PlainApiKey::parse(&swapped).is_none(), "{swapped}");
        let odd = [
            format!("{text}0"),
            format!(" {text}"),
            text.to_uppercase(),
            text.replace("tk_", "sk_"),
            format!("tk_{}", "é".repeat(19)),
            "tk_".to_owned() + &"0".repeat(38),
            "x".repeat(100_000),
        ];
        for text in odd {
            assert_eq!(PlainApiKey::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn characters_are_equally_likely() {
        let text = random_text(&Clock::system(), 62_000);
        let mut counts: BTreeMap<char, u32> = BTreeMap::new();
        for c in text.chars() {
            *counts.entry(c).or_default() += 1;
        }
        assert_eq!(counts.len(), 62);
        // Six standard deviations of 32.
        assert!(counts.values().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn nothing_shows_the_secrets() {
        let (key, secret) =
            (PlainApiKey::generate(&Clock::system()), SigningSecret::generate(&Clock::system()));
        assert_eq!(
            format!("{key:?} {secret:?}"),
            "PlainApiKey([redacted]) SigningSecret([redacted])"
        );
        assert!(!key.hash().0.contains(&key.expose()[3..35]));
    }

    #[test]
    fn a_signing_secret_opens_only_for_its_key() {
        let (clock, master) = (Clock::system(), MasterKey::parse(&("A".repeat(43) + "=")).unwrap());
        let (id, secret) = (clock.id(), SigningSecret::generate(&clock));
        let sealed = secret.seal(&master, id).unwrap();
        assert_eq!(SigningSecret::open(&master, id, &sealed), Ok(secret));
        assert_eq!(SigningSecret::open(&master, clock.id(), &sealed), Err(SealError));
    }
}
