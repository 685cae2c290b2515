//! Tokens in mailed links.
//!
//! A token is an id followed by a MAC of that id under a key that only our processes have. So a
//! worker can create the link from the id in a job's payload (payloads carry no secrets), a retried
//! mail contains the same link, forged tokens are rejected without a database query, and the
//! database stores only a hash.

use std::fmt;

use aws_lc_rs::constant_time;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mongodb::bson::Bson;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::MasterKey;
use crate::id::{Id, Prefix};

const ID_BYTES: usize = 16;
const MAC_BYTES: usize = 32;
/// Characters of a token's text: four for every three bytes, without a remainder.
const TEXT_CHARS: usize = (ID_BYTES + MAC_BYTES) / 3 * 4;
/// Ends the text of a token in a link, if that would end in punctuation otherwise: mail programs
/// leave that out when they make text a link.
const LINK_END: char = '0';

/// The secret part of a mailed link. Its `Debug` output is redacted.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkToken(String);

/// SHA-256 of a token in base64url: the form that is stored. Tokens contain 256 unguessable bits,
/// so a fast hash is enough (unlike for passwords).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenHash(String);

impl LinkToken {
    /// The token of `id`; the same every time for one key and kind of id.
    pub fn issue<P: Prefix>(key: &MasterKey, id: Id<P>) -> Self {
        let mut bytes = id.uuid().as_bytes().to_vec();
        bytes.extend_from_slice(&key.mac(&purpose::<P>(), id.uuid().as_bytes()));
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The id for which `text` was issued; none if it was not issued with this key.
    pub fn redeem<P: Prefix>(key: &MasterKey, text: &str) -> Option<Id<P>> {
        let text = if text.len() > TEXT_CHARS { text.strip_suffix(LINK_END)? } else { text };
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (id, mac) = bytes.split_at_checked(ID_BYTES)?;
        let expected: [u8; MAC_BYTES] = key.mac(&purpose::<P>(), id);
        constant_time::verify_slices_are_equal(&expected, mac).ok()?;
        Uuid::from_slice(id).ok().map(Id::from_uuid)
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The text for the end of a link, which is always a letter or a digit.
    pub fn link_text(&self) -> String {
        let is_punctuated = self.0.ends_with(|c: char| !c.is_ascii_alphanumeric());
        let end = is_punctuated.then_some(LINK_END);
        self.0.chars().chain(end).collect()
    }

    /// The hash to store.
    pub fn hash(&self) -> TokenHash {
        TokenHash(super::fingerprint(self.0.as_bytes()))
    }
}

impl fmt::Debug for LinkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkToken([redacted])")
    }
}

impl From<TokenHash> for Bson {
    fn from(hash: TokenHash) -> Self {
        Self::String(hash.0)
    }
}

fn purpose<P: Prefix>() -> String {
    format!("link-token/{}", P::PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{RegistrationId, UserId};

    fn key() -> MasterKey {
        MasterKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap()
    }

    #[test]
    fn redeems_to_the_id_it_was_issued_for() {
        let id = RegistrationId::from_uuid(Uuid::now_v7());
        let token = LinkToken::issue(&key(), id);
        assert_eq!(LinkToken::redeem(&key(), token.expose()), Some(id));
        assert_eq!(LinkToken::issue(&key(), id), token);
    }

    #[test]
    fn links_end_in_a_letter_or_a_digit_whatever_the_token() {
        let mut punctuated = 0;
        for _ in 0..500 {
            let id = RegistrationId::from_uuid(Uuid::now_v7());
            let token = LinkToken::issue(&key(), id);
            let link = token.link_text();
            assert!(link.ends_with(|c: char| c.is_ascii_alphanumeric()), "{link}");
            for text in [token.expose(), &link] {
                assert_eq!(LinkToken::redeem(&key(), text), Some(id), "{text}");
            }
            let longer = format!("{}00", token.expose());
            assert_eq!(LinkToken::redeem::<crate::id::Registration>(&key(), &longer), None);
            punctuated += usize::from(link.len() > TEXT_CHARS);
        }
        assert!(punctuated > 0, "no token ended in punctuation");
    }

    #[test]
    fn forged_tokens_and_tokens_of_another_kind_are_rejected() {
        let id = RegistrationId::from_uuid(Uuid::now_v7());
        let token = LinkToken::issue(&key(), id);
        assert_eq!(LinkToken::redeem::<crate::id::User>(&key(), token.expose()), None::<UserId>);
        let mut forged = token.expose().to_owned().into_bytes();
        forged[0] = if forged[0] == b'A' { b'B' } else { b'A' };
        for text in
            [String::from_utf8(forged).unwrap(), String::new(), "x".repeat(10_000), "é".into()]
        {
            assert_eq!(LinkToken::redeem::<crate::id::Registration>(&key(), &text), None);
        }
    }
}
