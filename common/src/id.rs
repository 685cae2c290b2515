//! Prefixed, time-ordered ids: `usr_0192…`.
//!
//! An id's kind is part of its type, so a tenant's id cannot stand where a user's is meant, and
//! part of its text, so an operator sees in a log what it names.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// The kind of thing an [`Id`] names.
pub trait Prefix: Send + Sync + 'static {
    /// What stands before the underscore, for instance `usr`.
    const PREFIX: &'static str;
}

/// A `UUIDv7` (RFC 9562) with its kind as prefix; 32 hexadecimal digits after the underscore.
pub struct Id<P> {
    uuid: Uuid,
    kind: PhantomData<fn() -> P>,
}

impl<P: Prefix> Id<P> {
    /// Gives a bare `UUID` its kind.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self { uuid, kind: PhantomData }
    }

    /// The bare `UUID`.
    pub const fn uuid(&self) -> Uuid {
        self.uuid
    }
}

/// A text that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id that starts with `{expected}_` followed by 32 hexadecimal digits")]
pub struct InvalidId {
    expected: &'static str,
}

impl<P: Prefix> FromStr for Id<P> {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits = text.strip_prefix(P::PREFIX).and_then(|rest| rest.strip_prefix('_'));
        digits
            .filter(|digits| digits.len() == 32)
            .and_then(|digits| Uuid::try_parse(digits).ok())
            .map(Self::from_uuid)
            .ok_or(InvalidId { expected: P::PREFIX })
    }
}

impl<P: Prefix> fmt::Display for Id<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", P::PREFIX, self.uuid.simple())
    }
}

impl<P: Prefix> fmt::Debug for Id<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<P: Prefix> Serialize for Id<P> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, P: Prefix> Deserialize<'de> for Id<P> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl<P: Prefix> From<Id<P>> for mongodb::bson::Bson {
    fn from(id: Id<P>) -> Self {
        Self::String(id.to_string())
    }
}

impl<P> Clone for Id<P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P> Copy for Id<P> {}
impl<P> PartialEq for Id<P> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}
impl<P> Eq for Id<P> {}
impl<P> PartialOrd for Id<P> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<P> Ord for Id<P> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uuid.cmp(&other.uuid)
    }
}
impl<P> std::hash::Hash for Id<P> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $alias:ident = $kind:ident($prefix:literal);)+) => {$(
        #[doc = concat!("Marks ids that start with `", $prefix, "_`.")]
        #[derive(Debug)]
        pub enum $kind {}
        impl Prefix for $kind {
            const PREFIX: &'static str = $prefix;
        }
        $(#[$doc])*
        pub type $alias = Id<$kind>;
    )+};
}

kinds! {
    /// Names a tenant.
    TenantId = Tenant("ten");
    /// Names a person's account; one person may belong to several tenants.
    UserId = User("usr");
    /// Names the belonging of one user to one tenant.
    MembershipId = Membership("mem");
    /// Names a signed-in session.
    SessionId = Session("ses");
    /// Names a registration that waits for its address to be verified.
    RegistrationId = Registration("reg");
    /// Names a role that a tenant made.
    RoleId = CustomRole("rol");
    /// Names an invitation into a tenant.
    InvitationId = Invitation("inv");
    /// Names the link of an invitation: another each time it is sent anew.
    InvitationLinkId = InvitationLink("inl");
    /// Names a list of people to invite.
    InvitationListId = InvitationList("ivl");
    /// Names a link by which people have themselves invited.
    InviteLinkId = InviteLink("ilk");
    /// Names a domain of a tenant.
    TenantDomainId = TenantDomain("dom");
    /// Names an offer of a tenant's ownership.
    OwnershipTransferId = OwnershipTransfer("otr");
    /// Names a link that sets a new password.
    PasswordResetId = PasswordReset("pwr");
    /// Names a sign-in that waits for a second factor.
    MfaChallengeId = MfaChallenge("mfc");
    /// Names a passkey.
    PasskeyId = Passkey("pky");
    /// Names a ceremony with an authenticator.
    PasskeyCeremonyId = PasskeyCeremony("pkc");
    /// Names a change of an account's address.
    EmailChangeId = EmailChange("emc");
    /// Names the link of such a change in the mail of the address there is; of the change's own
    /// UUID.
    OldAddressLinkId = OldAddressLink("eol");
    /// Names the link of such a change in the mail of the address there is to be; of the change's
    /// own UUID.
    NewAddressLinkId = NewAddressLink("enl");
    /// Names an entry of the audit trail.
    AuditEventId = AuditEvent("aud");
    /// Names a job; fixed when it is staged, the same over every attempt.
    JobId = Job("job");
    /// Names a batch of jobs.
    BatchId = Batch("bat");
    /// Names a token-signing key (`kid`).
    SigningKeyId = SigningKey("sig");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let id = UserId::from_uuid(Uuid::now_v7());
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn another_kind_is_refused() {
        let id = UserId::from_uuid(Uuid::now_v7()).to_string();
        assert!(id.parse::<TenantId>().is_err());
        assert!("usr_".parse::<UserId>().is_err());
        assert!("usr_{0192a0b8-0000-7000-8000-000000000000}".parse::<UserId>().is_err());
    }
}
