//! The actions that events record.

use serde::{Deserialize, Serialize};

/// What was done, as `noun.verb`. An action keeps its name as long as events contain it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    #[serde(rename = "domain.added")]
    DomainAdded,
    #[serde(rename = "domain.auto_invite_changed")]
    DomainAutoInviteChanged,
    #[serde(rename = "domain.lost")]
    DomainLost,
    #[serde(rename = "domain.removed")]
    DomainRemoved,
    #[serde(rename = "domain.verified")]
    DomainVerified,
    #[serde(rename = "email_change.cancelled")]
    EmailChangeCancelled,
    #[serde(rename = "email_change.confirmed")]
    EmailChangeConfirmed,
    #[serde(rename = "email_change.refused")]
    EmailChangeRefused,
    #[serde(rename = "email_change.requested")]
    EmailChangeRequested,
    #[serde(rename = "invitation.cancelled")]
    InvitationCancelled,
    #[serde(rename = "invitation.created")]
    InvitationCreated,
    #[serde(rename = "invitation.resent")]
    InvitationResent,
    #[serde(rename = "invitation_list.completed")]
    InvitationListCompleted,
    #[serde(rename = "invitation_list.created")]
    InvitationListCreated,
    #[serde(rename = "invite_link.created")]
    InviteLinkCreated,
    #[serde(rename = "invite_link.deleted")]
    InviteLinkDeleted,
    #[serde(rename = "member.joined")]
    MemberJoined,
    #[serde(rename = "member.left")]
    MemberLeft,
    #[serde(rename = "member.removed")]
    MemberRemoved,
    #[serde(rename = "member.role_changed")]
    MemberRoleChanged,
    #[serde(rename = "mfa.passkey_added")]
    MfaPasskeyAdded,
    #[serde(rename = "mfa.passkey_removed")]
    MfaPasskeyRemoved,
    #[serde(rename = "mfa.recovery_code_used")]
    MfaRecoveryCodeUsed,
    #[serde(rename = "mfa.recovery_codes_replaced")]
    MfaRecoveryCodesReplaced,
    #[serde(rename = "mfa.reset")]
    MfaReset,
    #[serde(rename = "mfa.totp_added")]
    MfaTotpAdded,
    #[serde(rename = "mfa.totp_removed")]
    MfaTotpRemoved,
    #[serde(rename = "ownership.offer_cancelled")]
    OwnershipOfferCancelled,
    #[serde(rename = "ownership.offered")]
    OwnershipOffered,
    #[serde(rename = "ownership.transferred")]
    OwnershipTransferred,
    #[serde(rename = "password_reset.created")]
    PasswordResetCreated,
    #[serde(rename = "registration.created")]
    RegistrationCreated,
    #[serde(rename = "role.created")]
    RoleCreated,
    #[serde(rename = "role.deleted")]
    RoleDeleted,
    #[serde(rename = "role.updated")]
    RoleUpdated,
    #[serde(rename = "session.all_revoked")]
    SessionsRevoked,
    #[serde(rename = "session.created")]
    SessionCreated,
    #[serde(rename = "session.reauthenticated")]
    SessionReauthenticated,
    #[serde(rename = "session.reuse_detected")]
    SessionReuseDetected,
    #[serde(rename = "session.revoked")]
    SessionRevoked,
    #[serde(rename = "session.tenant_switched")]
    SessionTenantSwitched,
    #[serde(rename = "signing_key.revoked")]
    SigningKeyRevoked,
    #[serde(rename = "signing_key.rotated")]
    SigningKeyRotated,
    #[serde(rename = "tenant.all_addresses_allowed")]
    TenantAllAddressesAllowed,
    #[serde(rename = "tenant.created")]
    TenantCreated,
    #[serde(rename = "tenant.mail_budget_set")]
    TenantMailBudgetSet,
    #[serde(rename = "tenant.security_changed")]
    TenantSecurityChanged,
    #[serde(rename = "user.created")]
    UserCreated,
    #[serde(rename = "user.disabled")]
    UserDisabled,
    #[serde(rename = "user.email_changed")]
    UserEmailChanged,
    #[serde(rename = "user.enabled")]
    UserEnabled,
    #[serde(rename = "user.password_changed")]
    UserPasswordChanged,
    #[serde(rename = "user.password_reset")]
    UserPasswordReset,
}

/// A property whose change an event may record. None of them is a secret. Values that may identify
/// a person ([`Property::is_personal`]) are kept apart from the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Property {
    /// The role of a member.
    Role,
    /// The permissions of a custom role.
    Permissions,
    /// The role in which people of a domain are invited.
    AutoInviteRole,
    /// Whether a tenant requires a second factor of its members.
    RequireMfa,
    /// Minutes without use after which a tenant's sessions end.
    SessionIdleMinutes,
    /// Hours after which a tenant's sessions end.
    SessionAbsoluteHours,
    /// Minimum length of the passwords of a tenant's members.
    PasswordMinLength,
    /// The email domains that a tenant invites.
    AllowedEmailDomains,
    /// The IP addresses from which a tenant can be accessed.
    IpAllowlist,
    /// Mails a day that an operator allows a tenant to send to people who are not members.
    MailsPerDay,
}

impl Property {
    /// Whether its values may identify a person, as an IP address or the domain of a small company
    /// does.
    pub const fn is_personal(self) -> bool {
        match self {
            Self::AllowedEmailDomains | Self::IpAllowlist => true,
            Self::Role
            | Self::Permissions
            | Self::AutoInviteRole
            | Self::RequireMfa
            | Self::SessionIdleMinutes
            | Self::SessionAbsoluteHours
            | Self::PasswordMinLength
            | Self::MailsPerDay => false,
        }
    }
}
