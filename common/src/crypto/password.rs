//! Passwords: what is accepted, and argon2id on a bounded pool.
//!
//! A hash costs about 30 ms of a core on purpose. Hashing therefore runs on blocking threads
//! behind a semaphore; a request that waits too long for its turn is shed instead of queueing, so
//! a flood of logins cannot starve everything else.

use std::{fmt, sync::Arc, time::Duration};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version, password_hash::phc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::JoinError, time::timeout};

use crate::telemetry::metrics;

/// The fewest characters of a password (NIST SP 800-63B §3.1.1.2 with a second factor to come).
pub(super) const PASSWORD_CHARS_MIN: usize = 8;
/// The most bytes of a password; far beyond the 64 characters that OWASP ASVS 6.2.9 asks for, and
/// small enough that hashing it costs nothing extra.
pub(super) const PASSWORD_BYTES_MAX: usize = 1024;

/// argon2id, m = 19 MiB, t = 2, p = 1: the OWASP password storage cheat sheet's first choice.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// A password as a person typed it. Never printed, never altered, never cut.
#[derive(Clone, Debug)]
pub struct Password(SecretString);

/// A password that is too short or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPassword {
    /// Fewer than `PASSWORD_CHARS_MIN` characters.
    #[error("must have at least {PASSWORD_CHARS_MIN} characters")]
    TooShort,
    /// More than `PASSWORD_BYTES_MAX` bytes.
    #[error("must have at most {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
}

impl Password {
    /// A password to be set: long enough and not too long.
    ///
    /// # Errors
    /// When it is neither.
    pub fn chosen(text: String) -> Result<Self, InvalidPassword> {
        if text.chars().take(PASSWORD_CHARS_MIN).count() < PASSWORD_CHARS_MIN {
            return Err(InvalidPassword::TooShort);
        }
        Self::presented(text)
    }

    /// A password to be checked: anything that is not too long to hash.
    ///
    /// # Errors
    /// When it is too long.
    pub fn presented(text: String) -> Result<Self, InvalidPassword> {
        if text.len() > PASSWORD_BYTES_MAX { Err(InvalidPassword::TooLong) } else { Ok(Self(text.into())) }
    }
}

/// An argon2id hash in PHC string format, with its parameters and salt.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash([redacted])")
    }
}

/// Why a password could not be hashed or checked.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// Too many passwords wait already; try again shortly.
    #[error("too many passwords are being hashed; try again shortly")]
    Overloaded,
    /// The hashing thread ended without an answer.
    #[error("hashing was interrupted")]
    Interrupted(#[from] JoinError),
    /// argon2 refused; a stored hash that is not one of ours, for instance.
    #[error("argon2 refused: {0}")]
    Refused(String),
}

/// Hashes and checks passwords, a bounded number at once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hasher {
    turns: Arc<Semaphore>,
    wait_max: Duration,
    dummy: PasswordHash,
}

impl Hasher {
    /// A hasher that works on `concurrency` passwords at once and sheds after `wait_max`.
    ///
    /// # Errors
    /// When argon2 refuses its own parameters.
    pub fn new(concurrency: usize, wait_max: Duration) -> Result<Self, HashError> {
        // Made with the same parameters as every new hash, so that checking a password of an
        // account that does not exist costs the same as of one that does.
        let dummy = hash_blocking(&SecretString::from("no account has this password".to_owned()))?;
        Ok(Self { turns: Arc::new(Semaphore::new(concurrency)), wait_max, dummy })
    }

    /// A hash of `password` with a fresh salt.
    ///
    /// # Errors
    /// [`HashError::Overloaded`] when its turn does not come in time.
    pub async fn hash(&self, password: Password) -> Result<PasswordHash, HashError> {
        self.in_turn(move || hash_blocking(&password.0)).await
    }

    /// Whether `password` is the one `hash` was made of. Without a hash, as when there is no such
    /// account, the same work is done and the answer is no.
    ///
    /// # Errors
    /// [`HashError::Overloaded`] when its turn does not come in time.
    pub async fn verify(&self, password: Password, hash: Option<PasswordHash>) -> Result<bool, HashError> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.dummy.clone());
        self.in_turn(move || verify_blocking(&password.0, &hash)).await.map(|matches| matches && known)
    }

    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, HashError> + Send + 'static) -> Result<T, HashError> {
        let waiting = metrics::PASSWORD_HASH_WAITING.clone();
        waiting.inc();
        let turn = timeout(self.wait_max, Arc::clone(&self.turns).acquire_owned()).await;
        waiting.dec();
        let Ok(Ok(turn)) = turn else {
            metrics::PASSWORD_HASH_SHED.inc();
            return Err(HashError::Overloaded);
        };
        // The permit lives in the blocking task: were it held by the request, a client that hangs
        // up would free it while its hash still burns a core.
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let _timer = metrics::PASSWORD_HASH_DURATION.start_timer();
            work()
        })
        .await?
    }
}

fn argon2() -> Result<Argon2<'static>, HashError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(refused)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash_blocking(password: &SecretString) -> Result<PasswordHash, HashError> {
    let hash: phc::PasswordHash = argon2()?.hash_password(password.expose_secret().as_bytes()).map_err(refused)?;
    Ok(PasswordHash(hash.to_string()))
}

fn verify_blocking(password: &SecretString, hash: &PasswordHash) -> Result<bool, HashError> {
    let parsed = phc::PasswordHash::new(&hash.0).map_err(refused)?;
    match argon2()?.verify_password(password.expose_secret().as_bytes(), &parsed) {
        Ok(()) => Ok(true),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(refused(error)),
    }
}

fn refused(error: impl fmt::Display) -> HashError {
    HashError::Refused(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::chosen(text.to_owned()).unwrap()
    }

    #[tokio::test]
    async fn verifies_only_the_right_password() {
        let hasher = Hasher::new(2, Duration::from_secs(30)).unwrap();
        let hash = hasher.hash(password("correct horse")).await.unwrap();
        assert!(hasher.verify(password("correct horse"), Some(hash.clone())).await.unwrap());
        assert!(!hasher.verify(password("wrong horse!"), Some(hash)).await.unwrap());
        assert!(!hasher.verify(password("no account has this password"), None).await.unwrap());
    }

    #[tokio::test]
    async fn unicode_spaces_and_length_are_kept() {
        let hasher = Hasher::new(2, Duration::from_secs(30)).unwrap();
        let long = "pass phrase ŵïth spaces 🔑 ".repeat(20);
        let hash = hasher.hash(password(&long)).await.unwrap();
        let cut = long[..long.len() - 1].to_owned();
        assert!(hasher.verify(password(&long), Some(hash.clone())).await.unwrap());
        assert!(!hasher.verify(password(&cut), Some(hash)).await.unwrap());
    }

    #[tokio::test]
    async fn a_full_pool_sheds() {
        let hasher = Hasher::new(1, Duration::from_millis(1)).unwrap();
        let _held = Arc::clone(&hasher.turns).acquire_owned().await.unwrap();
        let shed = hasher.hash(password("correct horse")).await;
        assert!(matches!(shed, Err(HashError::Overloaded)));
    }

    #[test]
    fn length_is_bounded_before_hashing() {
        assert_eq!(Password::chosen("1234567".into()).unwrap_err(), InvalidPassword::TooShort);
        assert_eq!(Password::presented("x".repeat(1_000_000)).unwrap_err(), InvalidPassword::TooLong);
        assert!(Password::presented(String::new()).is_ok());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let printed = format!("{:?} {:?}", password("canary-horse"), PasswordHash("canary".into()));
        assert!(!printed.contains("canary"), "{printed}");
    }
}
