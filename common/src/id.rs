//! Prefixed, time-ordered ids: `usr_0192…`.
//!
//! The kind of an id is part of its type, so that a tenant's id cannot be used as a user's, and
//! part of its text, so that an operator can see in a log what it identifies.

use std::{borrow::Cow, fmt, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};
use uuid::Uuid;

/// The kind of thing that an [`Id`] identifies.
pub trait Prefix: Send + Sync + 'static {
    /// The part before the underscore, such as `usr`.
    const PREFIX: &'static str;
    /// Name of such ids in the OpenAPI document, such as `UserId`.
    const NAME: &'static str;
}

/// A `UUIDv7` (RFC 9562), written as its kind, an underscore and 32 hexadecimal digits.
pub struct Id<P> {
    uuid: Uuid,
    kind: PhantomData<fn() -> P>,
}

impl<P: Prefix> Id<P> {
    /// An id that is never generated.
    pub const NIL: Self = Self::from_uuid(Uuid::nil());

    /// An id of kind `P` from a `UUID`.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self { uuid, kind: PhantomData }
    }

    /// The `UUID` without its kind.
    pub const fn uuid(&self) -> Uuid {
        self.uuid
    }
}

/// The text is not an id of the expected kind.
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

impl<P: Prefix> PartialSchema for Id<P> {
    fn schema() -> RefOr<Schema> {
        let example = format!("{}_0192a0b8c0de7000800000000000cafe", P::PREFIX);
        ObjectBuilder::new().schema_type(Type::String).examples([example]).into()
    }
}

impl<P: Prefix> ToSchema for Id<P> {
    fn name() -> Cow<'static, str> {
        P::NAME.into()
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
        #[doc = concat!("Kind of ids that start with `", $prefix, "_`.")]
        #[derive(Debug)]
        pub enum $kind {}
        impl Prefix for $kind {
            const PREFIX: &'static str = $prefix;
            const NAME: &'static str = stringify!($alias);
        }
        $(#[$doc])*
        pub type $alias = Id<$kind>;
    )+};
}

kinds! {
    /// Id of a tenant.
    TenantId = Tenant("ten");
    /// Id of a person's account; one person may belong to several tenants.
    UserId = User("usr");
    /// Id of a user's membership in a tenant.
    MembershipId = Membership("mem");
    /// Id of a session.
    SessionId = Session("ses");
    /// Id of a registration whose email address is not verified yet.
    RegistrationId = Registration("reg");
    /// Id of a tenant's custom role.
    RoleId = CustomRole("rol");
    /// Id of an invitation to a tenant.
    InvitationId = Invitation("inv");
    /// Id of an invitation's link; each mail of the invitation has a new one.
    InvitationLinkId = InvitationLink("inl");
    /// Id of a list of people to invite.
    InvitationListId = InvitationList("ivl");
    /// Id of a link with which people request an invitation.
    InviteLinkId = InviteLink("ilk");
    /// Id of a tenant's domain.
    TenantDomainId = TenantDomain("dom");
    /// Id of an offer of a tenant's ownership.
    OwnershipTransferId = OwnershipTransfer("otr");
    /// Id of a password reset link.
    PasswordResetId = PasswordReset("pwr");
    /// Id of a sign-in that awaits a second factor.
    MfaChallengeId = MfaChallenge("mfc");
    /// Id of a passkey.
    PasskeyId = Passkey("pky");
    /// Id of a `WebAuthn` ceremony.
    PasskeyCeremonyId = PasskeyCeremony("pkc");
    /// Id of a change of an account's email address.
    EmailChangeId = EmailChange("emc");
    /// Id of the link mailed to the old email address; shares the UUID of the change.
    OldAddressLinkId = OldAddressLink("eol");
    /// Id of the link mailed to the new email address; shares the UUID of the change.
    NewAddressLinkId = NewAddressLink("enl");
    /// Id of an event in the activity of a tenant or of the platform.
    EventId = Event("evt");
    /// Id of a tenant's API key.
    ApiKeyId = ApiKey("key");
    /// Id of an administrator of the platform.
    AdminId = Admin("adm");
    /// Id of a job, assigned when it is staged and the same for every attempt.
    JobId = Job("job");
    /// Id of a batch of jobs.
    BatchId = Batch("bat");
    /// Id of a token-signing key (`kid`).
    SigningKeyId = SigningKey("sig");
    /// Id of a running process.
    ProcessId = Process("prc");
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
    fn an_id_of_another_kind_is_rejected() {
        let id = UserId::from_uuid(Uuid::now_v7()).to_string();
        assert!(id.parse::<TenantId>().is_err());
        assert!("usr_".parse::<UserId>().is_err());
        assert!("usr_{0192a0b8-0000-7000-8000-000000000000}".parse::<UserId>().is_err());
    }
}
