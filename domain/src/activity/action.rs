//! The actions that events record.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares the actions with their names.
macro_rules! actions {
    ($($action:ident = $name:literal,)+) => {
        /// What was done, as `noun.verb`. An action keeps its name as long as events contain it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Action {
            $(#[serde(rename = $name)] $action,)+
        }

        impl Action {
            /// Every action, in alphabetical order of its name.
            pub const ALL: &'static [Self] = &[$(Self::$action,)+];

            /// Its name in events and commands.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)+
                }
            }
        }

        impl fmt::Display for Action {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

actions! {
    ApiKeyAdopted = "api_key.adopted",
    ApiKeyCreated = "api_key.created",
    ApiKeyLeaked = "api_key.leaked",
    ApiKeyRevoked = "api_key.revoked",
    ApiKeyRotated = "api_key.rotated",
    ApiKeySuspended = "api_key.suspended",
    ApiKeyUpdated = "api_key.updated",
    DomainAdded = "domain.added",
    DomainAutoInviteChanged = "domain.auto_invite_changed",
    DomainLost = "domain.lost",
    DomainRemoved = "domain.removed",
    DomainVerified = "domain.verified",
    EmailChangeCancelled = "email_change.cancelled",
    EmailChangeConfirmed = "email_change.confirmed",
    EmailChangeRefused = "email_change.refused",
    EmailChangeRequested = "email_change.requested",
    InvitationCancelled = "invitation.cancelled",
    InvitationCreated = "invitation.created",
    InvitationResent = "invitation.resent",
    InvitationListCompleted = "invitation_list.completed",
    InvitationListCreated = "invitation_list.created",
    InviteLinkCreated = "invite_link.created",
    InviteLinkDeleted = "invite_link.deleted",
    JobCancelled = "job.cancelled",
    JobDeleted = "job.deleted",
    JobRetried = "job.retried",
    JobRunNow = "job.run_now",
    MemberJoined = "member.joined",
    MemberLeft = "member.left",
    MemberRemoved = "member.removed",
    MemberRoleChanged = "member.role_changed",
    MfaPasskeyAdded = "mfa.passkey_added",
    MfaPasskeyRemoved = "mfa.passkey_removed",
    MfaRecoveryCodeUsed = "mfa.recovery_code_used",
    MfaRecoveryCodesReplaced = "mfa.recovery_codes_replaced",
    MfaReset = "mfa.reset",
    MfaTotpAdded = "mfa.totp_added",
    MfaTotpRemoved = "mfa.totp_removed",
    OwnershipOfferCancelled = "ownership.offer_cancelled",
    OwnershipOffered = "ownership.offered",
    OwnershipTransferred = "ownership.transferred",
    PasswordResetCreated = "password_reset.created",
    QueuePaused = "queue.paused",
    QueueResumed = "queue.resumed",
    RegistrationCreated = "registration.created",
    RoleCreated = "role.created",
    RoleDeleted = "role.deleted",
    RoleUpdated = "role.updated",
    SessionsRevoked = "session.all_revoked",
    SessionCreated = "session.created",
    SessionReauthenticated = "session.reauthenticated",
    SessionReuseDetected = "session.reuse_detected",
    SessionRevoked = "session.revoked",
    SessionTenantSwitched = "session.tenant_switched",
    SigningKeyRevoked = "signing_key.revoked",
    SigningKeyRotated = "signing_key.rotated",
    TenantActivated = "tenant.activated",
    TenantAllAddressesAllowed = "tenant.all_addresses_allowed",
    TenantCreated = "tenant.created",
    TenantMailBudgetSet = "tenant.mail_budget_set",
    TenantSecurityChanged = "tenant.security_changed",
    TenantSuspended = "tenant.suspended",
    UserCreated = "user.created",
    UserDisabled = "user.disabled",
    UserEmailChanged = "user.email_changed",
    UserEnabled = "user.enabled",
    UserNameChanged = "user.name_changed",
    UserPasswordChanged = "user.password_changed",
    UserPasswordReset = "user.password_reset",
}

/// A property whose change an event may record. None of them is a secret. Values that may identify
/// a person ([`Property::is_personal`]) are kept apart from the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Property {
    /// The name of an account.
    Name,
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
    /// The IP addresses from which a tenant can be accessed, or an API key used.
    IpAllowlist,
    /// The scopes of an API key.
    Scopes,
    /// When an API key expires.
    ExpiresAt,
    /// Requests a minute that an API key may make.
    RateLimit,
    /// Whether requests of an API key must be signed.
    RequireSignature,
    /// The member on whose behalf an API key acts.
    Sponsor,
    /// Mails a day that an operator allows a tenant to send to people who are not members.
    MailsPerDay,
}

impl Property {
    /// Whether its values may identify a person, as an IP address or the domain of a small company
    /// does.
    pub const fn is_personal(self) -> bool {
        match self {
            Self::Name | Self::AllowedEmailDomains | Self::IpAllowlist => true,
            Self::Role
            | Self::Permissions
            | Self::AutoInviteRole
            | Self::RequireMfa
            | Self::SessionIdleMinutes
            | Self::SessionAbsoluteHours
            | Self::PasswordMinLength
            | Self::Scopes
            | Self::ExpiresAt
            | Self::RateLimit
            | Self::RequireSignature
            | Self::Sponsor
            | Self::MailsPerDay => false,
        }
    }
}
