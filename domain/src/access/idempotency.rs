//! Requests that take effect at most once: a client names a request with a key of its own, and may
//! repeat the request until it receives the response.
//!
//! The key's row belongs to the transaction of the request's change ([`Once`]): it is inserted before
//! anything else and receives the response last. So a crash leaves both the effect and the response,
//! or neither, and there is no lock that could outlive its holder: while one transaction is open,
//! another that inserts the same row has a write conflict, and is refused at once instead of being
//! retried. If a process dies, MongoDB ends its transaction when that has been open for
//! `transactionLifetimeLimitSeconds` (60 by default; it looks every half of that).
//!
//! Only successes are stored. A refusal rolls everything back and is worked out again.
//!
//! Responses may contain secrets that are shown once, so they are encrypted with a key derived from
//! the master key and the client's key, and of the latter only a keyed hash is stored: the database
//! and the master key together are not enough to read a response.

mod reply;

use std::{fmt, str::FromStr, time::Duration};

use common::{
    clock::later,
    crypto::MasterKey,
    db::{
        Change, Data, DbError, PlatformScope, Record, Store, Txn, is_duplicate,
        schema::{self, Field, Index},
    },
    id::TenantId,
    origin::Principal,
};
use mongodb::bson::{Binary, DateTime, doc, spec::BinarySubtype};
pub use reply::{Reply, ReplyError, Success};
use serde::{Deserialize, Serialize};

/// Purposes of derived keys.
const ID_PURPOSE: &str = "idempotency-key";
const FINGERPRINT_PURPOSE: &str = "idempotency-fingerprint";
const REPLY_PURPOSE: &str = "idempotency-reply";
/// Maximum length of a client's key.
pub const KEY_BYTES_MAX: usize = 255;

/// A client's key. Its `Debug` output is redacted: with the database and the master key, it reveals a
/// response.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// The text is not an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {KEY_BYTES_MAX} visible ASCII characters, without spaces")]
pub struct InvalidIdempotencyKey;

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(text: &str) -> Result<Self, InvalidIdempotencyKey> {
        let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        let is_key = (1..=KEY_BYTES_MAX).contains(&text.len()) && is_visible;
        is_key.then(|| Self(text.to_owned())).ok_or(InvalidIdempotencyKey)
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey([redacted])")
    }
}

/// A key that a request has used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UsedKey {
    /// A keyed hash of the principal, the tenant and the client's key.
    #[serde(rename = "_id")]
    id: String,
    /// Who sent the request.
    principal: Principal,
    /// A keyed hash of the request.
    fingerprint: String,
    /// The response, encrypted; none if it was too large to keep.
    reply: Option<Binary>,
    created_at: DateTime,
    expires_at: DateTime,
}

impl Record for UsedKey {
    const COLLECTION: &'static str = "idempotency_keys";
    const DATA: Data = Data::of_person("principal")
        .not_exported("it is encrypted with a key that only the client has")
        .kept("it expires before an account is erased");
    const INDEXES: &'static [Index] =
        &[Index::expiring("idempotency_keys_ttl", &[("expires_at", 1)], Duration::ZERO)];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("principal", schema::STRING),
        ("fingerprint", schema::STRING),
        ("created_at", schema::DATE),
        ("expires_at", schema::DATE),
    ];
}

/// Who sends a request. Keys of different senders are independent: those of different principals, and
/// those of one user in different tenants, where the same request has another effect.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    pub principal: Principal,
    /// The tenant in which the principal acts, if any.
    pub tenant: Option<TenantId>,
}

/// What a request asks for. Another request with the same key is refused.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// The query string, which may be empty.
    pub query: &'a str,
    pub body: &'a [u8],
}

/// A request with a key.
#[derive(Clone)]
pub struct Claim {
    key: MasterKey,
    id: String,
    principal: Principal,
    fingerprint: String,
    /// Purpose of the key that encrypts the response; includes the client's key.
    purpose: String,
    ttl: Duration,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What became of an earlier request with the same key.
#[derive(Debug, PartialEq, Eq)]
pub enum Earlier {
    /// It was the same request, and this is its response.
    Replied(Reply),
    /// It was the same request, whose response was too large to keep.
    NotKept,
    /// It was another request.
    Different,
}

/// Why an earlier request was not found out.
#[derive(Debug, thiserror::Error)]
pub enum EarlierError {
    /// Its response cannot be read.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Claim {
    /// A request of `sender` with this key, which is remembered for `ttl`.
    pub fn new(
        master: &MasterKey,
        sender: Sender,
        key: &IdempotencyKey,
        asked: Asked<'_>,
        ttl: Duration,
    ) -> Self {
        let Sender { principal, tenant } = sender;
        let tenant = tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
        let name = principal.to_string();
        let named = [name.as_bytes(), tenant.as_bytes(), key.0.as_bytes()];
        let id = master.mac_key(ID_PURPOSE).sign(&named);
        let Asked { method, path, query, body } = asked;
        let parts = [method.as_bytes(), path.as_bytes(), query.as_bytes(), body];
        Self {
            fingerprint: master.mac_key(FINGERPRINT_PURPOSE).sign(&parts),
            // The id has a fixed length, so no other id and key make the same purpose.
            purpose: format!("{REPLY_PURPOSE} {id} {}", key.0),
            key: master.clone(),
            id,
            principal,
            ttl,
        }
    }

    /// The committed request with the same key, if there was one and its key has not expired.
    pub async fn earlier(&self, store: &Store) -> Result<Option<Earlier>, EarlierError> {
        // MongoDB removes expired rows late.
        let filter = doc! { "_id": &self.id, "expires_at": { "$gt": store.clock().now() } };
        // Not narrowed to a tenant: the id is that of the sender and of the tenant.
        let found = store.records::<UsedKey>(PlatformScope).find(filter).await?;
        let Some(row) = found else { return Ok(None) };
        Ok(Some(match row.reply {
            _ if row.fingerprint != self.fingerprint => Earlier::Different,
            None => Earlier::NotKept,
            Some(sealed) => Earlier::Replied(Reply::open(&self.key, &self.purpose, &sealed.bytes)?),
        }))
    }

    /// Inserts the key's row, or replaces an expired one.
    async fn take<E: From<DbError>>(&self, txn: &mut Txn) -> Result<(), OnceError<E>> {
        let now = txn.clock().now();
        let expired = doc! { "_id": &self.id, "expires_at": { "$lte": now } };
        let row = doc! { "$set": {
            "principal": self.principal,
            "fingerprint": &self.fingerprint,
            "reply": null,
            "created_at": now,
            "expires_at": later(now, self.ttl),
        } };
        match txn.records::<UsedKey>(PlatformScope).upsert(expired, row).await {
            Ok(()) => Ok(()),
            // Here and nowhere else: a conflict about another row says nothing about this request.
            Err(error) if error.is_write_conflict() => Err(OnceError::InProgress),
            Err(error) if is_duplicate(&error, "_id_") => Err(OnceError::Seen),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores the response, unless it is too large.
    async fn keep<E: From<DbError>>(
        &self,
        txn: &mut Txn,
        reply: &Reply,
    ) -> Result<(), OnceError<E>> {
        let Some(bytes) = reply.seal(&self.key, &self.purpose)? else { return Ok(()) };
        let sealed = Binary { subtype: BinarySubtype::Generic, bytes };
        let update = doc! { "$set": { "reply": sealed } };
        txn.records::<UsedKey>(PlatformScope).update(doc! { "_id": &self.id }, update).await?;
        Ok(())
    }
}

/// Why a change was not made, or not again.
#[derive(Debug, thiserror::Error)]
pub enum OnceError<E> {
    /// A transaction with the same key has not ended.
    #[error("a request with the same idempotency key is in progress")]
    InProgress,
    /// A request with the same key was committed.
    #[error("a request with the same idempotency key was carried out before")]
    Seen,
    /// The response cannot be stored.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// The change was refused.
    #[error(transparent)]
    Change(E),
}

impl<E: From<DbError>> From<DbError> for OnceError<E> {
    fn from(error: DbError) -> Self {
        Self::Change(error.into())
    }
}

/// A change that is made once for a key: together with the key's row and the response.
#[derive(Debug)]
pub struct Once<'a, C, F> {
    pub claim: &'a Claim,
    pub change: &'a C,
    /// Makes the response from the output of the change. May run several times.
    pub reply: F,
}

impl<C, F> Change for Once<'_, C, F>
where
    C: Change,
    F: Fn(C::Output) -> Result<Reply, ReplyError> + Sync,
{
    type Output = Reply;
    type Error = OnceError<C::Error>;

    async fn apply(&self, txn: &mut Txn) -> Result<Reply, OnceError<C::Error>> {
        self.claim.take(txn).await?;
        let output = self.change.apply(txn).await.map_err(OnceError::Change)?;
        let reply = (self.reply)(output)?;
        self.claim.keep(txn, &reply).await?;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(tenant: Option<TenantId>, user: u8, key: &str, asked: Asked<'_>) -> Claim {
        let master = MasterKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        let user: common::id::UserId = format!("usr_{user:032x}").parse().unwrap();
        let sender = Sender { principal: user.into(), tenant };
        Claim::new(&master, sender, &key.parse().unwrap(), asked, Duration::from_hours(1))
    }

    const ASKED: Asked<'_> = Asked { method: "POST", path: "/a", query: "b=1", body: b"{}" };

    #[test]
    fn keys_are_short_visible_ascii() {
        for key in ["a", "!", "~", &"x".repeat(255), "8e03978e-40d5-43e8-bc93-6894a57f9324"] {
            assert!(key.parse::<IdempotencyKey>().is_ok(), "{key}");
        }
        for key in ["", " ", "a b", "\t", "é", "a\u{7f}", &"x".repeat(256)] {
            assert_eq!(key.parse::<IdempotencyKey>(), Err(InvalidIdempotencyKey), "{key:?}");
        }
    }

    #[test]
    fn a_row_belongs_to_one_sender_and_key() {
        let tenants =
            ["ten_00000000000000000000000000000001", "ten_00000000000000000000000000000002"];
        let [one, two] = tenants.map(|tenant| Some(tenant.parse().unwrap()));
        let base = claim(one, 1, "k", ASKED);
        for other in [
            claim(two, 1, "k", ASKED),
            claim(None, 1, "k", ASKED),
            claim(one, 2, "k", ASKED),
            claim(one, 1, "l", ASKED),
        ] {
            assert_ne!(base.id, other.id);
            assert_ne!(base.purpose, other.purpose);
        }
    }

    #[test]
    fn a_fingerprint_is_of_the_whole_request() {
        let print = |asked| claim(None, 1, "k", asked).fingerprint;
        assert_eq!(print(ASKED), print(ASKED));
        for other in [
            Asked { method: "PUT", ..ASKED },
            Asked { path: "/b", ..ASKED },
            Asked { query: "", ..ASKED },
            Asked { body: b"{} ", ..ASKED },
            // The same bytes, divided differently.
            Asked { path: "/ab", query: "=1", ..ASKED },
        ] {
            assert_ne!(print(ASKED), print(other), "{other:?}");
        }
    }

    #[test]
    fn neither_key_nor_response_is_shown() {
        let key: IdempotencyKey = "canary".parse().unwrap();
        let claim = claim(None, 1, "canary", ASKED);
        let reply = Reply::new(Success::Created).with_body(b"canary".to_vec());
        assert!(!format!("{key:?} {claim:?} {reply:?}").contains("canary"));
    }
}
