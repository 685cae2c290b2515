//! Everything cryptographic, on `aws-lc-rs` and `argon2` only.
//!
//! [`MasterKey`] is the one secret an installation must keep: purpose keys derived from it seal
//! the token-signing keys at rest and make the tokens in mailed links. What the database holds is
//! never enough to forge or use any of them.

mod link_token;
mod master_key;
mod password;
mod signing;

pub use link_token::{LinkToken, TokenHash};
pub use master_key::{InvalidMasterKey, MasterKey, SealError};
pub use password::{HashError, Hasher, InvalidPassword, Password, PasswordHash};
pub use signing::{AccessClaims, Issuer, SigningError, SigningKey, Verifier};
