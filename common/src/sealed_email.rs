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

/// Purpose of the key that makes pseudonyms of email addresses.
const DIGEST_PURPOSE: &str = "address-digest";

/// An email address that only holders of the master key can read, and that only one kind of job can
/// use: copied into the payload of another kind, it does not open. Encrypting one address twice
/// gives different results, so they do not show that the addresses are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedEmail(String);

/// The email address could not be decrypted with this installation's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the email address was encrypted with another master key or for another kind of job, or has been altered"
)]
pub struct Unreadable;

impl SealedEmail {
    /// Encrypts `email` for jobs of `kind`.
    pub fn seal(key: &MasterKey, kind: &str, email: &Email) -> Result<Self, SealError> {
        key.seal(&purpose(kind), email.as_str().as_bytes())
            .map(|sealed| Self(URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// Decrypts the email address in a job of `kind`.
    pub fn open(&self, key: &MasterKey, kind: &str) -> Result<Email, Unreadable> {
        let sealed = URL_SAFE_NO_PAD.decode(&self.0).map_err(|_| Unreadable)?;
        let plain = key.open(&purpose(kind), &sealed).map_err(|_| Unreadable)?;
        String::from_utf8(plain).ok().and_then(|text| text.parse().ok()).ok_or(Unreadable)
    }
}

/// Purpose of the key that encrypts the email addresses in jobs of `kind`.
fn purpose(kind: &str) -> String {
    format!("sealed-email {kind}")
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

    /// The pseudonym of the mailbox of `email`, whatever its subaddress.
    pub fn of_mailbox(key: &MasterKey, email: &Email) -> Self {
        Self(key.digest(DIGEST_PURPOSE, &email.mailbox()))
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
    fn opens_only_with_its_key_in_its_kind_of_job_and_shows_nothing() {
        let key = MasterKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        let other = MasterKey::parse("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        let email: Email = "Ada@example.com".parse().unwrap();
        let seal = || SealedEmail::seal(&key, "mail.a", &email).unwrap();
        let (one, two) = (seal(), seal());
        assert_eq!(one.open(&key, "mail.a"), Ok(email.clone()));
        assert_eq!(two.open(&key, "mail.a"), Ok(email.clone()));
        assert_eq!(one.open(&key, "mail.b"), Err(Unreadable));
        assert_ne!(one, two);
        assert!(!format!("{one:?}").to_lowercase().contains("ada"));
        assert_eq!(one.open(&other, "mail.a"), Err(Unreadable));
        assert_eq!(SealedEmail("?".to_owned()).open(&key, "mail.a"), Err(Unreadable));
    }
}
