//! Recovery codes: each stands in once for a second factor that was lost.

use common::{
    clock::Clock,
    crypto::MasterKey,
    db::{
        Change, Data, DbError, PlatformScope, Record, Txn,
        schema::{self, Field},
    },
    id::UserId,
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use super::{MfaChange, MfaError, Owner};
use crate::identity::users::User;

/// What the codes are digested for.
const PURPOSE: &str = "recovery-code";
/// How many there are.
const COUNT: usize = 10;
/// Characters of one, each of five bits: with the key's digest, too many to try even for who has
/// the database.
const CHARS: usize = 10;
/// After so many characters there is a hyphen.
const GROUP: usize = 5;
/// Crockford's base 32: nothing that looks like something else.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The recovery codes of a person, none of which can be read from it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecoveryCodes {
    /// Whose.
    #[serde(rename = "_id")]
    pub user_id: UserId,
    /// Digests of those that were not used.
    digests: Vec<String>,
    /// When they were made.
    pub made_at: DateTime,
}

impl Record for RecoveryCodes {
    const COLLECTION: &'static str = "recovery_codes";
    const DATA: Data = Data::of_person("_id").without(&["digests"]);
    const REQUIRED: &'static [Field] = &[("_id", schema::STRING), ("made_at", schema::DATE)];
}

impl RecoveryCodes {
    /// How many were not used.
    pub fn left(&self) -> usize {
        self.digests.len()
    }

    /// Makes new ones, which voids those before; answers them, this once.
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

    /// Uses up `code`; tells whether it was there.
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

/// Whatever people make of a code when they write it down.
fn normalized(code: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        'o' => Some('0'),
        'i' | 'l' => Some('1'),
        c if c.is_ascii_alphanumeric() => Some(c),
        _ => None,
    };
    code.chars().filter_map(plain).take(CHARS + 1).collect()
}

fn digest(key: &MasterKey, user: UserId, code: &str) -> String {
    key.digest(PURPOSE, &format!("{user} {}", normalized(code)))
}

/// Makes new recovery codes, which voids those before.
#[derive(Debug)]
pub struct Replace<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// Whose.
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
    fn a_code_is_known_however_it_is_written() {
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
        assert_ne!(digest(&key, clock.id(), &code), digest(&key, user, &code), "another person's");
        assert_ne!(
            digest(&key, user, &format!("{code}0")),
            digest(&key, user, &code),
            "one that goes on"
        );
    }
}
