//! Everything cryptographic, on `aws-lc-rs` and `argon2` only.
//!
//! [`MasterKey`] is the one secret an installation must keep: purpose keys derived from it seal
//! the token-signing keys at rest and make the tokens in mailed links. What the database holds is
//! never enough to forge or use any of them.

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

mod hashing_threads;
mod link_token;
mod master_key;
mod password;
mod refresh_token;

pub use link_token::{LinkToken, TokenHash};
pub use master_key::{InvalidMasterKey, MasterKey, SealError};
pub use password::{HashError, Hasher, InvalidPassword, Password, PasswordHash};
pub use refresh_token::{PresentedToken, RefreshToken};

/// SHA-256 of `bytes` in URL-safe base64: 43 characters that tell texts apart and do not show them.
pub fn fingerprint(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, bytes))
}
