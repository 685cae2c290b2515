//! Email addresses in the payloads of jobs, encrypted or as a pseudonym.
//!
//! A job that is staged for the owner of an email address, who may not exist, has no user id to
//! carry. Its payload is visible in the outbox, in Redis and to operators, so it must not show the
//! address.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    crypto::{MasterKey, SealError},
    email::Email,
};

/// Purpose of the key that encrypts email addresses.
const PURPOSE: &str = "addressee";

/// Purpose of the key that makes pseudonyms of email addresses.
const DIGEST_PURPOSE: &str = "address-digest";

/// An email address that only holders of the master key can read. Encrypting one address twice
/// gives different results, so they do not show that the addresses are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedEmail(String);

/// The email address could not be decrypted with this installation's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the email address was encrypted with another master key or has been altered")]
pub struct Unreadable;

impl SealedEmail {
    /// Encrypts `email`.
    pub fn seal(key: &MasterKey, email: &Email) -> Result<Self, SealError> {
        key.seal(PURPOSE, email.as_str().as_bytes())
            .map(|sealed| Self(URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// Decrypts the email address.
    pub fn open(&self, key: &MasterKey) -> Result<Email, Unreadable> {
        let sealed = URL_SAFE_NO_PAD.decode(&self.0).map_err(|_| Unreadable)?;
        let plain = key.open(PURPOSE, &sealed).map_err(|_| Unreadable)?;
        String::from_utf8(plain).ok().and_then(|text| text.parse().ok()).ok_or(Unreadable)
    }
}

/// Pseudonym of an email address, which the payload of a job carries instead of the address.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_with_its_key_and_shows_nothing() {
        let key = MasterKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        let other = MasterKey::parse("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        let email: Email = "Ada@example.com".parse().unwrap();
        let (one, two) =
            (SealedEmail::seal(&key, &email).unwrap(), SealedEmail::seal(&key, &email).unwrap());
        assert_eq!((one.open(&key), two.open(&key)), (Ok(email.clone()), Ok(email)));
        assert_ne!(one, two);
        assert!(!format!("{one:?}").to_lowercase().contains("ada"));
        assert_eq!(one.open(&other), Err(Unreadable));
        assert_eq!(SealedEmail("?".to_owned()).open(&key), Err(Unreadable));
    }
}
