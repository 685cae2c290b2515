//! All cryptography, based on `aws-lc-rs` and `argon2` only.
//!
//! [`MasterKey`] is the only secret that an installation must keep: keys derived from it encrypt
//! the token-signing keys at rest and create the tokens in mailed links. The contents of the
//! database are never enough to forge or use a token.

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

mod api_key;
mod hashing_threads;
mod link_token;
mod master_key;
mod password;
mod refresh_token;

pub use api_key::{ApiKeyHash, PlainApiKey, SIGNATURE_BYTES, SigningSecret};
pub use link_token::{LinkToken, TokenHash};
pub use master_key::{InvalidMasterKey, MacKey, MasterKey, SealError};
pub use password::{HashError, Hasher, InvalidPassword, Password, PasswordHash, Verdict};
pub use refresh_token::{PresentedToken, RefreshToken};

/// SHA-256 of `bytes` in URL-safe base64: 43 characters that identify a text without showing it.
pub fn fingerprint(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, bytes))
}
