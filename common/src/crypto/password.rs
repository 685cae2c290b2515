//! Password length rules, and argon2id hashing with bounded concurrency.
//!
//! A hash takes about 16 ms of a core on purpose, so passwords are hashed on a few dedicated
//! threads. A request that waits too long for one is shed instead of queued, so that a flood of
//! logins cannot starve other requests.

use std::{fmt, io, time::Duration};

use argon2::{Algorithm, Argon2, Params, Version, password_hash::phc};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use mongodb::bson::Bson;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::hashing_threads::{HashingThreads, Workspace};
use crate::text;

/// Minimum length of a password in characters (NIST SP 800-63B §3.1.1.2, with a second factor).
pub(super) const PASSWORD_CHARS_MIN: usize = 8;
/// Maximum length of a password in bytes: far beyond the 64 characters that OWASP ASVS 6.2.9
/// requires, and short enough to add no cost to hashing.
pub(super) const PASSWORD_BYTES_MAX: usize = 1024;

/// argon2id, m = 19 MiB, t = 2, p = 1: the first choice of OWASP's Password Storage Cheat Sheet.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Limits for the parameters of stored hashes. A hash beyond them is not ours and could stall or
/// starve the process.
const STORED_MEMORY_KIB_MAX: u32 = 256 * 1024;
const STORED_PASSES_MAX: u32 = 32;

/// A password. Its canonical form is that of the `OpaqueString` profile (RFC 8265 §4.2): NFC, with
/// every space as an ASCII space, so that it is the same on every keyboard. Its `Debug` output is
/// redacted.
#[derive(Clone, Debug, ToSchema)]
#[schema(
    value_type = String,
    description = "Password of an account.",
    format = "password",
    max_length = 1024,
    example = "correct horse battery staple"
)]
pub struct Password(Forms);

#[derive(Clone, Debug)]
struct Forms {
    canonical: SecretString,
    /// As it was typed, if that differs: older hashes were made of it.
    typed: Option<SecretString>,
}

/// Why a password has an invalid length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPassword {
    /// It has fewer characters than this minimum.
    #[error("must have at least {0} characters")]
    TooShort(usize),
    /// It has more than `PASSWORD_BYTES_MAX` bytes.
    #[error("must have at most {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
}

impl Password {
    /// Checks the length of a password that is to be set.
    pub fn chosen(text: String) -> Result<Self, InvalidPassword> {
        let password = Self::presented(text)?;
        password.at_least(PASSWORD_CHARS_MIN)?;
        Ok(password)
    }

    /// Checks that the password has at least `chars` characters.
    pub fn at_least(&self, chars: usize) -> Result<(), InvalidPassword> {
        if self.expose().chars().take(chars).count() < chars {
            Err(InvalidPassword::TooShort(chars))
        } else {
            Ok(())
        }
    }

    /// Checks that a password received for verification is also long enough to be set.
    pub fn to_be_set(self) -> Result<Self, InvalidPassword> {
        self.at_least(PASSWORD_CHARS_MIN)?;
        Ok(self)
    }

    /// Accepts any password that is not too long to hash, to verify it against a stored hash.
    pub fn presented(text: String) -> Result<Self, InvalidPassword> {
        if text.len() > PASSWORD_BYTES_MAX {
            return Err(InvalidPassword::TooLong);
        }
        let spaced = text.replace(is_space, " ");
        let canonical = text::canonical(&spaced);
        let typed = (text != canonical).then(|| text.into());
        Ok(Self(Forms { canonical: canonical.into_owned().into(), typed }))
    }
}

impl Password {
    /// The plain text in its canonical form, for estimating its strength.
    pub fn expose(&self) -> &str {
        self.0.canonical.expose_secret()
    }
}

/// Whether a character is a space (Unicode category Zs), not a tab or a line break.
fn is_space(c: char) -> bool {
    c.is_whitespace() && !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}')
}

/// The result of comparing a password with a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is another password.
    Wrong,
    /// It is the password.
    Right,
    /// It is the password, but a new hash would be made with other parameters, or of its canonical
    /// form. Hash it again.
    Outdated,
}

impl Verdict {
    /// Whether it is the password.
    pub const fn is_right(self) -> bool {
        !matches!(self, Self::Wrong)
    }
}

/// An argon2id hash in PHC string format, including its parameters and salt.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Whether a new hash would use other parameters.
    fn is_outdated(&self) -> bool {
        let Ok(stored) = phc::PasswordHash::new(&self.0) else { return true };
        let is_current = |params: &Params| {
            (params.m_cost(), params.t_cost(), params.p_cost()) == (MEMORY_KIB, PASSES, LANES)
        };
        stored.algorithm != Algorithm::Argon2id.ident()
            || stored.version != Some(Version::V0x13.into())
            || !Params::try_from(&stored).is_ok_and(|params| is_current(&params))
    }
}

impl From<&PasswordHash> for Bson {
    fn from(hash: &PasswordHash) -> Self {
        Self::String(hash.0.clone())
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash([redacted])")
    }
}

/// Why a password could not be hashed or verified.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// No thread became free in time; the client should retry shortly.
    #[error("too many passwords are being hashed; try again shortly")]
    Overloaded,
    /// The thread ended without an answer.
    #[error("hashing was interrupted; the hashing thread ended without an answer")]
    Interrupted,
    /// The threads could not be started.
    #[error("the hashing threads could not be started: {0}")]
    Threads(#[from] io::Error),
    /// argon2 failed, for instance because a stored hash is not one of ours.
    #[error("argon2 failed: {0}")]
    Refused(String),
}

/// Hashes and verifies passwords with bounded concurrency. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hasher {
    threads: HashingThreads,
    wait_max: Duration,
    dummy: PasswordHash,
}

impl Hasher {
    /// A hasher that works on `concurrency` passwords at once and sheds those that wait longer than
    /// `wait_max`.
    pub fn new(concurrency: usize, wait_max: Duration) -> Result<Self, HashError> {
        // Uses the parameters of new hashes, so that verifying a password takes as long whether the
        // account exists or not.
        let dummy = hash_blocking(
            &mut Workspace::default(),
            &SecretString::from("no account has this password".to_owned()),
        )?;
        Ok(Self { threads: HashingThreads::start(concurrency)?, wait_max, dummy })
    }

    /// Hashes `password` with a new salt.
    ///
    /// # Errors
    /// [`HashError::Overloaded`] if no thread becomes free in time.
    pub async fn hash(&self, password: Password) -> Result<PasswordHash, HashError> {
        self.threads
            .run(self.wait_max, move |workspace| hash_blocking(workspace, &password.0.canonical))
            .await
    }

    /// As [`Hasher::hash`], if `check` accepts the password; both run on the thread together.
    ///
    /// # Errors
    /// [`HashError::Overloaded`] if no thread becomes free in time; the inner error is that of
    /// `check`.
    pub async fn hash_if<E: Send + 'static>(
        &self,
        password: Password,
        check: impl FnOnce(&Password) -> Result<(), E> + Send + 'static,
    ) -> Result<Result<PasswordHash, E>, HashError> {
        let work = move |workspace: &mut Workspace| match check(&password) {
            Ok(()) => hash_blocking(workspace, &password.0.canonical).map(Ok),
            Err(refusal) => Ok(Err(refusal)),
        };
        self.threads.run(self.wait_max, work).await
    }

    /// Compares `password` with `hash`. Without a hash (no such account), the same work is done and
    /// the answer is [`Verdict::Wrong`].
    ///
    /// # Errors
    /// [`HashError::Overloaded`] if no thread becomes free in time.
    pub async fn verify(
        &self,
        password: Password,
        hash: Option<PasswordHash>,
    ) -> Result<Verdict, HashError> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.dummy.clone());
        let work = move |workspace: &mut Workspace| judge(workspace, &password, &hash);
        let verdict = self.threads.run(self.wait_max, work).await?;
        Ok(if known { verdict } else { Verdict::Wrong })
    }
}

/// An argon2 output of `length` bytes.
fn compute(
    workspace: &mut Workspace,
    argon2: &Argon2<'_>,
    password: &SecretString,
    salt: &[u8],
    length: usize,
) -> Result<Vec<u8>, HashError> {
    let mut output = vec![0; length];
    let computed = workspace.with(argon2.params().block_count(), workspace_blocks(), |memory| {
        argon2.hash_password_into_with_memory(
            password.expose_secret().as_bytes(),
            salt,
            &mut output,
            memory,
        )
    });
    computed.map(|()| output).map_err(refused)
}

/// The blocks (of 1 KiB) that hashing with our parameters needs.
const fn workspace_blocks() -> usize {
    MEMORY_KIB as usize
}

fn hash_blocking(
    workspace: &mut Workspace,
    password: &SecretString,
) -> Result<PasswordHash, HashError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(refused)?;
    let salt = phc::Salt::generate();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let output = compute(workspace, &argon2, password, &salt, Params::DEFAULT_OUTPUT_LEN)?;
    let hash = phc::PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: phc::ParamsString::try_from(&params).map_err(refused)?,
        salt: Some(salt),
        hash: Some(phc::Output::new(&output).map_err(refused)?),
    };
    Ok(PasswordHash(hash.to_string()))
}

fn judge(
    workspace: &mut Workspace,
    password: &Password,
    hash: &PasswordHash,
) -> Result<Verdict, HashError> {
    if verify_blocking(workspace, &password.0.canonical, hash)? {
        return Ok(if hash.is_outdated() { Verdict::Outdated } else { Verdict::Right });
    }
    Ok(match &password.0.typed {
        Some(typed) if verify_blocking(workspace, typed, hash)? => Verdict::Outdated,
        _ => Verdict::Wrong,
    })
}

fn verify_blocking(
    workspace: &mut Workspace,
    password: &SecretString,
    hash: &PasswordHash,
) -> Result<bool, HashError> {
    let stored = phc::PasswordHash::new(&hash.0).map_err(refused)?;
    let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else {
        return Err(HashError::Refused("the stored hash has no salt or no output".to_owned()));
    };
    let output = compute(workspace, &argon2_of(&stored)?, password, salt, expected.len())?;
    Ok(verify_slices_are_equal(&output, expected.as_bytes()).is_ok())
}

/// argon2 with the parameters of a stored hash.
fn argon2_of(stored: &phc::PasswordHash) -> Result<Argon2<'static>, HashError> {
    let algorithm = Algorithm::try_from(stored.algorithm.as_str()).map_err(refused)?;
    let version =
        stored.version.map(Version::try_from).transpose().map_err(refused)?.unwrap_or_default();
    let params = Params::try_from(stored).map_err(refused)?;
    if params.m_cost() > STORED_MEMORY_KIB_MAX || params.t_cost() > STORED_PASSES_MAX {
        return Err(HashError::Refused(format!(
            "the stored hash requires {} KiB and {} passes",
            params.m_cost(),
            params.t_cost()
        )));
    }
    Ok(Argon2::new(algorithm, version, params))
}

fn refused(error: impl fmt::Display) -> HashError {
    HashError::Refused(error.to_string())
}

#[cfg(test)]
mod tests {
    use argon2::PasswordHasher;

    use super::*;

    fn password(text: &str) -> Password {
        Password::chosen(text.to_owned()).unwrap()
    }

    #[tokio::test]
    async fn verifies_only_the_right_password() {
        let hasher = Hasher::new(2, Duration::from_secs(30)).unwrap();
        let hash = hasher.hash(password("correct horse")).await.unwrap();
        assert!(
            hasher.verify(password("correct horse"), Some(hash.clone())).await.unwrap().is_right()
        );
        assert!(!hasher.verify(password("wrong horse!"), Some(hash)).await.unwrap().is_right());
        assert!(
            !hasher
                .verify(password("no account has this password"), None)
                .await
                .unwrap()
                .is_right()
        );
    }

    #[tokio::test]
    async fn unicode_spaces_and_length_are_kept() {
        let hasher = Hasher::new(2, Duration::from_secs(30)).unwrap();
        let long = "pass phrase ŵïth spaces 🔑 ".repeat(20);
        let hash = hasher.hash(password(&long)).await.unwrap();
        let cut = long[..long.len() - 1].to_owned();
        assert!(hasher.verify(password(&long), Some(hash.clone())).await.unwrap().is_right());
        assert!(!hasher.verify(password(&cut), Some(hash)).await.unwrap().is_right());
    }

    #[tokio::test]
    async fn a_password_is_the_same_on_every_keyboard() {
        let hasher = Hasher::new(2, Duration::from_secs(30)).unwrap();
        let (composed, decomposed) = ("Grüße\u{a0}zählen", "Gru\u{308}ße za\u{308}hlen");
        let hash = hasher.hash(password(composed)).await.unwrap();
        let verdict = hasher.verify(password(decomposed), Some(hash.clone())).await.unwrap();
        assert_eq!(verdict, Verdict::Right);
        // Letters that only look alike stay different (NFC, not NFKC).
        let wide = password("Grüße ｚählen");
        assert_eq!(hasher.verify(wide, Some(hash)).await.unwrap(), Verdict::Wrong);
    }

    #[tokio::test]
    async fn a_hash_of_the_typed_text_still_verifies_and_is_outdated() {
        let hasher = Hasher::new(2, Duration::from_secs(30)).unwrap();
        let typed = "za\u{308}hlt noch immer";
        let text = SecretString::from(typed.to_owned());
        let old = hash_blocking(&mut Workspace::default(), &text).unwrap();
        let verify = async |text: &str, hash: &PasswordHash| {
            hasher.verify(password(text), Some(hash.clone())).await.unwrap()
        };
        assert_eq!(verify(typed, &old).await, Verdict::Outdated);
        assert_eq!(verify("zählt noch immer", &old).await, Verdict::Wrong);
        let renewed = hasher.hash(password(typed)).await.unwrap();
        for text in [typed, "zählt noch immer"] {
            assert_eq!(verify(text, &renewed).await, Verdict::Right);
        }
    }

    fn made_by_the_crate(memory_kib: u32, passes: u32, lanes: u32) -> PasswordHash {
        let params = Params::new(memory_kib, passes, lanes, None).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let hash: phc::PasswordHash = argon2.hash_password(b"correct horse").unwrap();
        PasswordHash(hash.to_string())
    }

    #[tokio::test]
    async fn hashes_with_other_parameters_verify() {
        let hasher = Hasher::new(1, Duration::from_mins(1)).unwrap();
        for (memory_kib, passes, lanes) in
            [(MEMORY_KIB, PASSES, LANES), (64, 1, 1), (1024, 3, 4), (2 * MEMORY_KIB, 1, 2)]
        {
            let hash = made_by_the_crate(memory_kib, passes, lanes);
            assert!(
                hasher
                    .verify(password("correct horse"), Some(hash.clone()))
                    .await
                    .unwrap()
                    .is_right(),
                "{memory_kib} {passes} {lanes}"
            );
            assert!(
                !hasher.verify(password("wrong horse!"), Some(hash)).await.unwrap().is_right(),
                "{memory_kib} {passes} {lanes}"
            );
        }
        // Test vector of the reference implementation (phc-winner-argon2, src/test.c).
        let known = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let known = PasswordHash(known.to_owned());
        let presented = Password::presented("password".to_owned()).unwrap();
        assert!(hasher.verify(presented, Some(known)).await.unwrap().is_right());
    }

    #[tokio::test]
    async fn only_hashes_with_other_parameters_are_outdated() {
        let hasher = Hasher::new(1, Duration::from_mins(1)).unwrap();
        assert!(!hasher.hash(password("correct horse")).await.unwrap().is_outdated());
        assert!(!hasher.dummy.is_outdated(), "an unknown account costs as much as a known one");
        assert!(!made_by_the_crate(MEMORY_KIB, PASSES, LANES).is_outdated());
        for (memory_kib, passes, lanes) in [
            (MEMORY_KIB / 2, PASSES, LANES),
            (MEMORY_KIB, PASSES + 1, LANES),
            (MEMORY_KIB, PASSES, 2),
        ] {
            assert!(
                made_by_the_crate(memory_kib, passes, lanes).is_outdated(),
                "{memory_kib} {passes} {lanes}"
            );
        }
        assert!(PasswordHash("canary".to_owned()).is_outdated());
    }

    #[tokio::test]
    async fn a_stored_hash_with_absurd_or_missing_parts_is_rejected() {
        let hasher = Hasher::new(1, Duration::from_mins(1)).unwrap();
        let (salt, output) = ("c29tZXNhbHQ", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc");
        for absurd in [
            format!("$argon2id$v=19$m=4294967295,t=2,p=1${salt}${output}"),
            format!("$argon2id$v=19$m=64,t=4294967295,p=1${salt}${output}"),
            format!("$argon2id$v=19$m=64,t=1,p=1${salt}"),
            format!("$argon2id$v=7$m=64,t=1,p=1${salt}${output}"),
            format!("$bcrypt$v=19$m=64,t=1,p=1${salt}${output}"),
            "canary".to_owned(),
        ] {
            let refused =
                hasher.verify(password("correct horse"), Some(PasswordHash(absurd.clone()))).await;
            assert!(matches!(refused, Err(HashError::Refused(_))), "{absurd}: {refused:?}");
        }
    }

    #[test]
    fn length_is_bounded_before_hashing() {
        assert_eq!(Password::chosen("1234567".into()).unwrap_err(), InvalidPassword::TooShort(8));
        assert_eq!(
            Password::presented("x".repeat(1_000_000)).unwrap_err(),
            InvalidPassword::TooLong
        );
        assert!(Password::presented(String::new()).is_ok());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let printed = format!("{:?} {:?}", password("canary-horse"), PasswordHash("canary".into()));
        assert!(!printed.contains("canary"), "{printed}");
    }
}
