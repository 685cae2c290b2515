//! What can be revoked: a session, an API key, the access of a person or a tenant, a membership.
//!
//! A change that revokes something notes it in its transaction ([`note`]). After the commit every
//! process removes it from its cache (`docs/ARCHITECTURE.md`, "Revocation").

use std::{fmt, str::FromStr};

use crate::{
    db::Txn,
    id::{ApiKeyId, SessionId, TenantId, UserId},
};

/// What processes must remove from their caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// One session.
    Session(SessionId),
    /// What is known of one API key.
    ApiKey(ApiKeyId),
    /// Everything a user may do, by themselves or by API keys.
    User(UserId),
    /// What a user may do in one tenant, by themselves or by API keys.
    Member(TenantId, UserId),
    /// Everything in a tenant.
    Tenant(TenantId),
}

/// The message is from a newer release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this release does not know this kind of revocation")]
pub struct UnknownRevocation;

/// Publishes `what` to every process once the transaction is committed.
pub fn note(txn: &mut Txn, what: Revoked) {
    txn.note(what);
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(session) => write!(f, "session {session}"),
            Self::ApiKey(key) => write!(f, "api_key {key}"),
            Self::User(user) => write!(f, "user {user}"),
            Self::Member(tenant, user) => write!(f, "member {tenant} {user}"),
            Self::Tenant(tenant) => write!(f, "tenant {tenant}"),
        }
    }
}

impl FromStr for Revoked {
    type Err = UnknownRevocation;

    fn from_str(text: &str) -> Result<Self, UnknownRevocation> {
        let words: Vec<&str> = text.split(' ').collect();
        let unknown = |_| UnknownRevocation;
        match words.as_slice() {
            ["session", session] => Ok(Self::Session(session.parse().map_err(unknown)?)),
            ["api_key", key] => Ok(Self::ApiKey(key.parse().map_err(unknown)?)),
            ["user", user] => Ok(Self::User(user.parse().map_err(unknown)?)),
            ["member", tenant, user] => {
                Ok(Self::Member(tenant.parse().map_err(unknown)?, user.parse().map_err(unknown)?))
            }
            ["tenant", tenant] => Ok(Self::Tenant(tenant.parse().map_err(unknown)?)),
            _ => Err(UnknownRevocation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn every_revocation_parses_from_its_own_text() {
        let clock = Clock::system();
        let (session, user, tenant): (SessionId, UserId, TenantId) =
            (clock.id(), clock.id(), clock.id());
        for what in [
            Revoked::Session(session),
            Revoked::ApiKey(clock.id()),
            Revoked::User(user),
            Revoked::Member(tenant, user),
            Revoked::Tenant(tenant),
        ] {
            assert_eq!(what.to_string().parse(), Ok(what));
        }
        for text in ["", "session", "session x", "user  ", "planet earth"] {
            assert_eq!(text.parse::<Revoked>(), Err(UnknownRevocation));
        }
    }
}
