//! What ends before its time: a session, all that a person or a tenant may do, a change of role.
//!
//! Whoever makes such a change notes it with its transaction ([`note`]); once it is committed every
//! process is told and forgets what it had kept of it (`docs/ARCHITECTURE.md`, "Revocation").

use std::{fmt, str::FromStr};

use crate::{
    db::Txn,
    id::{SessionId, TenantId, UserId},
};

/// What processes have to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// One session.
    Session(SessionId),
    /// Everything a person may do.
    User(UserId),
    /// What a person may do in a tenant.
    Member(TenantId, UserId),
    /// Everything in a tenant.
    Tenant(TenantId),
}

/// A message that this release does not understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a revocation that this release knows")]
pub struct UnknownRevocation;

/// Notes that `what` is to be told to every process once the transaction is committed.
pub fn note(txn: &mut Txn, what: Revoked) {
    txn.note(what);
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(session) => write!(f, "session {session}"),
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
    fn every_revocation_reads_as_it_was_written() {
        let clock = Clock::system();
        let (session, user, tenant): (SessionId, UserId, TenantId) =
            (clock.id(), clock.id(), clock.id());
        for what in [
            Revoked::Session(session),
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
