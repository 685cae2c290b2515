//! An address in the payload of a job.
//!
//! A job that is staged for whoever owns an address, if anybody does, has no id to carry; and what
//! waits in the outbox and in Redis, and what an operator sees of it, must not show the address.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    crypto::{MasterKey, SealError},
    email::Email,
};

/// What the master key seals them for.
const PURPOSE: &str = "addressee";

/// An address that only holders of the master key can read. Two of one address differ, so they do
/// not tell either that the same is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedEmail(String);

/// An addressee that this installation's key does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address was sealed with another master key, or altered")]
pub struct Unreadable;

impl SealedEmail {
    /// Hides `email`.
    ///
    /// # Errors
    /// When the cipher refuses, which a healthy system does not do.
    pub fn seal(key: &MasterKey, email: &Email) -> Result<Self, SealError> {
        key.seal(PURPOSE, email.as_str().as_bytes())
            .map(|sealed| Self(URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// The address.
    ///
    /// # Errors
    /// When it was sealed with another key, or altered.
    pub fn open(&self, key: &MasterKey) -> Result<Email, Unreadable> {
        let sealed = URL_SAFE_NO_PAD.decode(&self.0).map_err(|_| Unreadable)?;
        let plain = key.open(PURPOSE, &sealed).map_err(|_| Unreadable)?;
        String::from_utf8(plain).ok().and_then(|text| text.parse().ok()).ok_or(Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_with_the_key_alone_and_shows_nothing() {
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
