//! Recovery codes: each replaces a lost second factor once.

use common::{
    clock::Clock,
    crypto::MasterKey,
    db::{
        Change, Data, DbError, PlatformScope, Record, Txn,
        schema::{self, Field},
    },
    id::UserId,
    text::canonical_code,
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use super::{MfaChange, MfaError, Owner};
use crate::people::users::User;

/// Purpose of the key that hashes the codes.
const PURPOSE: &str = "recovery-code";
/// Number of codes.
const COUNT: usize = 10;
/// Characters per code, of five bits each: because hashing needs the master key, too many to guess
/// even with access to the database.
const CHARS: usize = 10;
/// A hyphen follows after this many characters.
const GROUP: usize = 5;
/// Crockford's base 32: no characters that look alike.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The recovery codes of a user, as hashes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecoveryCodes {
    #[serde(rename = "_id")]
    pub user_id: UserId,
    /// Hashes of the unused codes.
    digests: Vec<String>,
    /// When they were created.
    pub made_at: DateTime,
}

impl Record for RecoveryCodes {
    const COLLECTION: &'static str = "recovery_codes";
    const DATA: Data = Data::of_person("_id").without(&["digests"]);
    const REQUIRED: &'static [Field] = &[("_id", schema::STRING), ("made_at", schema::DATE)];
}

impl RecoveryCodes {
    /// Number of unused codes.
    pub fn left(&self) -> usize {
        self.digests.len()
    }

    /// Creates new codes, which revokes the previous ones; returns them this one time.
    pub(super) async fn replace(
        txn: &mut Txn,
        key: &MasterKey,
        user: UserId,
    ) -> Result<Vec<String>, DbError> {
        let codes: Vec<String> = (0..COUNT).map(|_| generate(txn.clock())).collect();
        let digests = codes.iter().map(|code| digest(key, user, code)).collect();
        let row = Self { user_id: user, digests, made_at: txn.clock().now() };
        txn.records::<Self>(PlatformScope).delete_all(doc! { "_id": user }).await?;
        txn.records::<Self>(PlatformScope).insert(&row).await?;
        Ok(codes)
    }

    /// Uses `code`; returns whether it was valid.
    pub(super) async fn take(
        txn: &mut Txn,
        key: &MasterKey,
        user: UserId,
        code: &str,
    ) -> Result<bool, DbError> {
        let digest = digest(key, user, code);
        let filter = doc! { "_id": user, "digests": &digest };
        txn.records::<Self>(PlatformScope)
            .update(filter, doc! { "$pull": { "digests": &digest } })
            .await
    }
}

fn generate(clock: &Clock) -> String {
    let chars = clock.random::<CHARS>().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    let (first, second) = chars.split_at(GROUP);
    format!("{}-{}", String::from_iter(first), String::from_iter(second))
}

/// Tolerates the ways in which people write codes down.
fn normalized(code: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        'o' => Some('0'),
        'i' | 'l' => Some('1'),
        c if c.is_ascii_alphanumeric() => Some(c),
        _ => None,
    };
    canonical_code(code).chars().filter_map(plain).take(CHARS + 1).collect()
}

fn digest(key: &MasterKey, user: UserId, code: &str) -> String {
    key.digest(PURPOSE, &format!("{user} {}", normalized(code)))
}

/// Creates new recovery codes, which revokes the previous ones.
#[derive(Debug)]
pub struct Replace<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    pub owner: Owner,
}

impl Change for Replace<'_> {
    type Output = Vec<String>;
    type Error = MfaError;

    async fn apply(&self, txn: &mut Txn) -> Result<Vec<String>, MfaError> {
        let user = User::within(txn, self.owner.user).await?;
        user.and_then(|user| user.second_factor_since).ok_or(MfaError::NotEnrolled)?;
        let codes = RecoveryCodes::replace(txn, self.key, self.owner.user).await?;
        super::changed(txn, self.owner, MfaChange::RecoveryCodesReplaced).await?;
        Ok(codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_recognised_in_every_spelling() {
        let clock = Clock::system();
        let (key, user) =
            (MasterKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap(), clock.id());
        let code = generate(&clock);
        assert_eq!(code.len(), CHARS + 1);
        let same = [
            code.to_uppercase(),
            code.replace('-', ""),
            format!(" {} ", code.replace('-', " - ")),
            code.replace('0', "O"),
        ];
        for written in same {
            assert_eq!(digest(&key, user, &written), digest(&key, user, &code), "{written}");
        }
        assert_ne!(
            digest(&key, clock.id(), &code),
            digest(&key, user, &code),
            "another user's code"
        );
        assert_ne!(
            digest(&key, user, &format!("{code}0")),
            digest(&key, user, &code),
            "a longer code"
        );
    }
}
