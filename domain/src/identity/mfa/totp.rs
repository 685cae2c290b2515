//! Codes of authenticator apps (RFC 6238): SHA-1, six digits, thirty seconds, as the apps expect.
//!
//! A code is valid once: its time step is stored, and only later ones are accepted (RFC 6238 §5.2).

use std::fmt;

use common::{
    crypto::{MasterKey, SealError},
    db::{
        Change, Data, PlatformScope, Record, Txn,
        schema::{self, Field},
    },
    id::UserId,
    text::canonical_code,
};
use mongodb::bson::{Binary, DateTime, doc, spec::BinarySubtype};
use serde::{Deserialize, Serialize};
use totp_rs::{Builder, Secret, Totp as Generator};

use super::{MfaChange, MfaError, Owner};

/// Purpose of the key that encrypts the secrets.
const PURPOSE: &str = "totp";
/// 160 bits, as RFC 4226 §4 recommends.
const SECRET_BYTES: usize = 20;
/// Digits of a code.
pub const DIGITS: usize = 6;

/// An authenticator app of a user; in use once it is confirmed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Totp {
    #[serde(rename = "_id")]
    pub user_id: UserId,
    /// The secret behind its codes, encrypted.
    secret: Binary,
    /// When its setup began.
    pub created_at: DateTime,
    /// When its first correct code completed the setup.
    pub confirmed_at: Option<DateTime>,
    /// The time step of the last code that was used.
    last_step: i64,
}

impl Record for Totp {
    const COLLECTION: &'static str = "totps";
    const DATA: Data = Data::of_person("_id").without(&["secret"]);
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("created_at", schema::DATE),
        ("confirmed_at", schema::DATE_OR_NULL),
    ];
}

/// The secret that the app receives once. Its `Debug` output is redacted.
#[derive(Clone)]
pub struct TotpSecret(Vec<u8>);

impl TotpSecret {
    /// As typed into an app.
    pub fn to_base32(&self) -> String {
        Secret::from(self.0.clone()).to_base32()
    }

    /// As scanned by an app (Key URI Format), which shows it as `account` of `issuer`.
    pub fn otpauth_url(&self, issuer: &str, account: &str) -> String {
        // A colon separates the two, so they must not contain any.
        let plain = |text: &str| text.replace(':', " ");
        self.generator(Some(plain(issuer)), &plain(account)).to_url().unwrap_or_default()
    }

    fn generator(&self, issuer: Option<String>, account: &str) -> Generator {
        Builder::new()
            .with_secret(self.0.clone())
            .with_issuer(issuer)
            .with_account_name(account)
            .build_noncompliant()
    }

    /// The time step of `code`, at most one step from `now`.
    fn step_of(&self, code: &str, now: DateTime) -> Option<i64> {
        let seconds = u64::try_from(now.timestamp_millis() / 1000).ok()?;
        self.generator(None, "")
            .check(&canonical_code(code), seconds)
            .and_then(|step| i64::try_from(step).ok())
    }
}

/// Whether a text has the form of a code, however it is grouped.
pub(super) fn is_code(text: &str) -> bool {
    let code = canonical_code(text);
    code.len() == DIGITS && code.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TotpSecret([redacted])")
    }
}

impl Totp {
    fn secret(&self, key: &MasterKey) -> Result<TotpSecret, SealError> {
        key.open(PURPOSE, &self.secret.bytes).map(TotpSecret)
    }

    /// Uses `code`; returns whether it is valid and was not used before.
    pub(super) async fn take(
        txn: &mut Txn,
        key: &MasterKey,
        user: UserId,
        code: &str,
    ) -> Result<bool, MfaError> {
        let found = txn
            .records::<Self>(PlatformScope)
            .find(doc! { "_id": user, "confirmed_at": { "$ne": null } })
            .await?;
        let Some(totp) = found else { return Ok(false) };
        let Some(step) = totp.secret(key)?.step_of(code, txn.clock().now()) else {
            return Ok(false);
        };
        let filter = doc! { "_id": user, "last_step": { "$lt": step } };
        Ok(txn
            .records::<Self>(PlatformScope)
            .update(filter, doc! { "$set": { "last_step": step } })
            .await?)
    }
}

/// Begins the setup of an authenticator app; beginning again revokes the previous secret.
#[derive(Debug)]
pub struct Enroll<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    pub user: UserId,
}

impl Change for Enroll<'_> {
    type Output = TotpSecret;
    type Error = MfaError;

    async fn apply(&self, txn: &mut Txn) -> Result<TotpSecret, MfaError> {
        let before = txn.records::<Totp>(PlatformScope).take(doc! { "_id": self.user }).await?;
        if before.is_some_and(|before| before.confirmed_at.is_some()) {
            return Err(MfaError::EnrolledAlready);
        }
        let secret = TotpSecret(txn.clock().random::<SECRET_BYTES>().to_vec());
        let sealed = self.key.seal(PURPOSE, &secret.0)?;
        let totp = Totp {
            user_id: self.user,
            secret: Binary { subtype: BinarySubtype::Generic, bytes: sealed },
            created_at: txn.clock().now(),
            confirmed_at: None,
            last_step: 0,
        };
        txn.records::<Totp>(PlatformScope).insert(&totp).await?;
        Ok(secret)
    }
}

/// Completes the setup of an authenticator app with a correct code. Returns recovery codes if it is
/// the user's first second factor.
#[derive(Debug)]
pub struct Confirm<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    pub owner: Owner,
    /// The code that the app shows.
    pub code: String,
}

impl Change for Confirm<'_> {
    type Output = Option<Vec<String>>;
    type Error = MfaError;

    async fn apply(&self, txn: &mut Txn) -> Result<Self::Output, MfaError> {
        let user = self.owner.user;
        let totp = txn
            .records::<Totp>(PlatformScope)
            .find(doc! { "_id": user })
            .await?
            .ok_or(MfaError::NotEnrolled)?;
        if totp.confirmed_at.is_some() {
            return Err(MfaError::EnrolledAlready);
        }
        let now = txn.clock().now();
        let step = totp.secret(self.key)?.step_of(&self.code, now).ok_or(MfaError::CodeInvalid)?;
        let update = doc! { "$set": { "confirmed_at": now, "last_step": step } };
        txn.records::<Totp>(PlatformScope)
            .update(doc! { "_id": user, "confirmed_at": null }, update)
            .await?;
        super::added(txn, self.key, self.owner, MfaChange::TotpAdded).await
    }
}

/// Removes the authenticator app.
#[derive(Debug, Clone, Copy)]
pub struct Remove {
    pub owner: Owner,
}

impl Change for Remove {
    type Output = ();
    type Error = MfaError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), MfaError> {
        let filter = doc! { "_id": self.owner.user, "confirmed_at": { "$ne": null } };
        txn.records::<Totp>(PlatformScope).take(filter).await?.ok_or(MfaError::NotEnrolled)?;
        Ok(super::removed(txn, self.owner, MfaChange::TotpRemoved).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B: the secret of its table, and the last six digits of its SHA-1 codes.
    #[test]
    fn codes_are_those_of_the_rfc() {
        let secret = TotpSecret(b"12345678901234567890".to_vec());
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
        ] {
            let at = |seconds: i64| DateTime::from_millis(seconds * 1000);
            assert_eq!(secret.step_of(code, at(seconds)), Some(seconds / 30), "{code}");
            assert_eq!(
                secret.step_of(code, at(seconds + 30)),
                Some(seconds / 30),
                "{code} a step later"
            );
            assert_eq!(secret.step_of(code, at(seconds + 90)), None, "{code} too late");
        }
        for wrong in ["", "28708", "2870822", "28708x", "000000"] {
            assert_eq!(secret.step_of(wrong, DateTime::from_millis(59_000)), None, "{wrong}");
        }
    }

    #[test]
    fn a_code_may_be_grouped_or_typed_in_wide_digits() {
        let secret = TotpSecret(b"12345678901234567890".to_vec());
        for code in ["287 082", " 287082\n", "287-082", "２８７０８２"] {
            assert!(is_code(code), "{code}");
            assert_eq!(secret.step_of(code, DateTime::from_millis(59_000)), Some(1), "{code}");
        }
        assert!(!is_code("abcd-efgh") && !is_code("28708") && !is_code(""));
    }

    #[test]
    fn an_app_receives_the_account_and_the_issuer() {
        let secret = TotpSecret(b"12345678901234567890".to_vec());
        let url = secret.otpauth_url("Ten: antry", "ada@example.com");
        assert!(
            url.starts_with("otpauth://totp/")
                && url.contains("secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"),
            "{url}"
        );
        assert!(url.contains("ada") && url.contains("issuer="), "{url}");
    }
}
