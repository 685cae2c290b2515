//! Refresh tokens, which a client exchanges for its next access token.
//!
//! A token is the session's id and a generation number, followed by a MAC of both and of the
//! session's salt under a key that only our processes have. So nothing in the database is enough to
//! forge a token, and the successor of a token can be issued a second time to a client that never
//! received the answer (rotation; OAuth 2.0 Security BCP, RFC 9700 §4.14.2).

use std::fmt;

use aws_lc_rs::constant_time;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::MasterKey;
use crate::id::SessionId;

/// Recognised by secret scanners.
const PREFIX: &str = "rt_";
const PURPOSE: &str = "refresh-token";
const ID_BYTES: usize = 16;
const GENERATION_BYTES: usize = 8;
const TOKEN_BYTES: usize = ID_BYTES + GENERATION_BYTES + 32;

/// A token as the client holds it. Its `Debug` output is redacted.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken(String);

/// The contents of a token that a client sent; not trustworthy until [`PresentedToken::is_genuine`]
/// has confirmed them.
#[derive(Clone, Copy)]
pub struct PresentedToken {
    /// The session that the token claims to belong to.
    pub session: SessionId,
    /// The generation that the token claims to have.
    pub generation: i64,
    mac: [u8; 32],
}

impl RefreshToken {
    /// The token of a session's `generation`; the same every time.
    pub fn issue(key: &MasterKey, session: SessionId, salt: &[u8], generation: i64) -> Self {
        let mut bytes = [0; TOKEN_BYTES];
        let (id, rest) = bytes.split_at_mut(ID_BYTES);
        let (count, mac) = rest.split_at_mut(GENERATION_BYTES);
        id.copy_from_slice(session.uuid().as_bytes());
        count.copy_from_slice(&generation.to_be_bytes());
        mac.copy_from_slice(&mac_of(key, session, salt, generation));
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The text for the client.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PresentedToken {
    /// Parses a token from a client; none if it does not have the form of our tokens.
    pub fn read(text: &str) -> Option<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(text.strip_prefix(PREFIX)?, &mut bytes).ok()?;
        let (id, rest) = bytes[..length].split_first_chunk::<ID_BYTES>()?;
        let (generation, mac) = rest.split_first_chunk::<GENERATION_BYTES>()?;
        let session = SessionId::from_uuid(Uuid::from_bytes(*id));
        Some(Self {
            session,
            generation: i64::from_be_bytes(*generation),
            mac: mac.try_into().ok()?,
        })
    }

    /// Whether we issued the token, for a session with this salt.
    pub fn is_genuine(&self, key: &MasterKey, salt: &[u8]) -> bool {
        let expected = mac_of(key, self.session, salt, self.generation);
        constant_time::verify_slices_are_equal(&expected, &self.mac).is_ok()
    }
}

fn mac_of(key: &MasterKey, session: SessionId, salt: &[u8], generation: i64) -> [u8; 32] {
    key.mac(
        PURPOSE,
        &[session.uuid().as_bytes().as_slice(), &generation.to_be_bytes(), salt].concat(),
    )
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken([redacted])")
    }
}

impl fmt::Debug for PresentedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PresentedToken({}, {})", self.session, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: char) -> MasterKey {
        MasterKey::parse(&format!("{}=", byte.to_string().repeat(43))).unwrap()
    }

    #[test]
    fn only_tokens_issued_for_the_session_are_genuine() {
        let session = SessionId::from_uuid(Uuid::now_v7());
        let token = RefreshToken::issue(&key('A'), session, b"salt", 7);
        let shown = PresentedToken::read(token.expose()).unwrap();
        assert_eq!((shown.session, shown.generation), (session, 7));
        assert!(shown.is_genuine(&key('A'), b"salt"));
        assert!(!shown.is_genuine(&key('A'), b"other"));
        assert!(!shown.is_genuine(&key('E'), b"salt"));
        assert!(!PresentedToken { generation: 8, ..shown }.is_genuine(&key('A'), b"salt"));
        assert_eq!(format!("{token:?}"), "RefreshToken([redacted])");
    }

    #[test]
    fn malformed_tokens_are_not_read() {
        let session = SessionId::from_uuid(Uuid::now_v7());
        let token = RefreshToken::issue(&key('A'), session, b"salt", 7).expose().to_owned();
        for text in [
            "",
            "rt_",
            "rt_AAAA",
            &token[3..],
            &token[..token.len() - 2],
            &format!("{token}AAAA"),
            &"rt_é".repeat(1_000),
        ] {
            assert!(PresentedToken::read(text).is_none(), "{text}");
        }
    }
}
