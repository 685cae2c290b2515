//! How each error of the domain is shown to clients: its problem, and the codes it can have. Causes
//! are logged and never sent.

use common::{crypto::HashError, db::DbError};
use domain::{
    access::throttle::{Act, TooMany},
    identity::{
        email_changes::EmailChangeError,
        joining::JoinError,
        mfa::{MfaError, challenges::Asked},
        password_resets::ResetError,
        passwords::NotSet,
        refresh::RefreshError,
        registrations::VerifyError,
        sign_in::SignInError,
        signing_keys::SigningError,
    },
    tenancy::{
        api_keys::ApiKeyError,
        custom_roles::RoleError,
        invitation_lists::ListError,
        invitations::InviteError,
        invite_links::InviteLinkError,
        members::MemberError,
        ownership::TransferError,
        roles::{OutOfReach, Permission},
        tenant_domains::DomainError,
        tenant_security::SecurityError,
        tenants::CreateTenantError,
    },
};
use jobs::batches::BatchError;

use super::{Code, FieldError, NoSecondFactor, NotRecent, Problem, Refusal, chain};

const TOKEN_INVALID: &str = "The link may have been used already or replaced by a newer one, or it may have expired. Request a new link.";
const OPERATOR: &str = "Contact the operator of this installation.";
const OWNERS_ONE_BY_ONE: &str = "must not be owner: owners are invited individually";

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        if error.is_outage() {
            tracing::warn!(error = %chain(&error), "database_unavailable");
            Self::unavailable()
        } else {
            Self::internal(&error)
        }
    }
}

impl From<HashError> for Problem {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Overloaded => Self::new(
                Code::Overloaded,
                "Too many passwords are being checked at the moment. Try again in a few seconds.",
            ),
            HashError::Interrupted | HashError::Threads(_) | HashError::Refused(_) => {
                Self::internal(&error)
            }
        }
    }
}

impl From<SigningError> for Problem {
    fn from(error: SigningError) -> Self {
        match error {
            SigningError::Db(error) => error.into(),
            SigningError::Seal(_) | SigningError::Key(_) => Self::internal(&error),
        }
    }
}

/// Handlers that give power declare [`NotRecent`] themselves.
impl From<OutOfReach> for Problem {
    fn from(reason: OutOfReach) -> Self {
        match reason {
            OutOfReach::TooHigh => Self::role_too_high(),
            OutOfReach::NotRecent => NotRecent.into(),
        }
    }
}

impl From<BatchError> for Problem {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Db(error) => error.into(),
            BatchError::TooManyJobs | BatchError::TooManyBytes => Self::internal(&error),
        }
    }
}

/// Becomes a problem in [`Problem::too_many_attempts`].
impl Refusal for TooMany {
    fn codes() -> Vec<Code> {
        vec![Code::TooManyAttempts]
    }
}

/// Becomes a problem in [`Problem::not_set`].
impl Refusal for NotSet {
    fn codes() -> Vec<Code> {
        vec![Code::ValidationFailed, Code::PasswordTooWeak]
    }
}

/// Becomes a problem in [`Problem::mfa_required`].
impl Refusal for Asked {
    fn codes() -> Vec<Code> {
        vec![Code::MfaRequired]
    }
}

impl Refusal for VerifyError {
    fn codes() -> Vec<Code> {
        vec![Code::TokenInvalid]
    }
}

impl From<VerifyError> for Problem {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::TokenInvalid | VerifyError::VerifiedAlready => {
                Self::new(Code::TokenInvalid, TOKEN_INVALID)
            }
            VerifyError::Db(error) => error.into(),
        }
    }
}

impl Refusal for ResetError {
    fn codes() -> Vec<Code> {
        vec![Code::TokenInvalid]
    }
}

impl From<ResetError> for Problem {
    fn from(error: ResetError) -> Self {
        match error {
            ResetError::TokenInvalid => Self::new(Code::TokenInvalid, TOKEN_INVALID),
            ResetError::Db(error) => error.into(),
        }
    }
}

impl Refusal for EmailChangeError {
    fn codes() -> Vec<Code> {
        vec![
            Code::TokenInvalid,
            Code::ValidationFailed,
            Code::Unauthenticated,
            Code::MailBudgetExhausted,
        ]
    }
}

impl From<EmailChangeError> for Problem {
    fn from(error: EmailChangeError) -> Self {
        match error {
            EmailChangeError::TokenInvalid => Self::new(
                Code::TokenInvalid,
                "The link may have been used already or replaced by a newer one, or it may have expired. Request the change again.",
            ),
            EmailChangeError::Unchanged => Self::fields(vec![FieldError::unchanged("new_email")]),
            EmailChangeError::AccountGone => Self::unauthenticated(true),
            EmailChangeError::BudgetSpent(wait) => Self::mail_budget_exhausted(wait),
            EmailChangeError::Seal(_) => Self::internal(&error),
            EmailChangeError::Db(error) => error.into(),
        }
    }
}

impl Refusal for SignInError {
    fn codes() -> Vec<Code> {
        vec![
            Code::InvalidCredentials,
            Code::EmailNotVerified,
            Code::MfaRequired,
            Code::MfaCodeInvalid,
            Code::PasskeyInvalid,
            Code::MfaTokenInvalid,
            Code::AccountDisabled,
            Code::TenantNotFound,
            Code::TenantSuspended,
            Code::IpNotAllowed,
            Code::SessionTooOld,
        ]
    }
}

impl From<SignInError> for Problem {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::InvalidCredentials => Self::new(
                Code::InvalidCredentials,
                "Check both and try again, or reset your password.",
            ),
            SignInError::EmailNotVerified => Self::new(
                Code::EmailNotVerified,
                "Follow the link in the verification email, or request a new one.",
            ),
            SignInError::SecondFactorRequired => Self::new(
                Code::MfaRequired,
                "Sign in with your second factor first, then repeat the request.",
            ),
            SignInError::SecondFactorInvalid => MfaError::CodeInvalid.into(),
            SignInError::PasskeyInvalid => MfaError::PasskeyInvalid.into(),
            SignInError::ChallengeInvalid => Self::new(
                Code::MfaTokenInvalid,
                "The sign-in took too long, or too many codes were incorrect. Start again with your password.",
            ),
            SignInError::TooManyCodes(wait) => Self::too_many_attempts(Act::SecondFactor, wait),
            SignInError::Seal(error) => Self::internal(&error),
            SignInError::AccountDisabled => Self::new(Code::AccountDisabled, OPERATOR),
            SignInError::TenantNotFound => Self::new(
                Code::TenantNotFound,
                "You are not a member of this tenant. Ask a member to invite you, or sign in without `tenant_id`.",
            ),
            SignInError::TenantSuspended => Self::new(Code::TenantSuspended, OPERATOR),
            SignInError::IpNotAllowed => Self::ip_not_allowed(),
            SignInError::SessionTooOld => {
                Self::new(Code::SessionTooOld, "Sign in again with the `tenant_id` of this tenant.")
            }
            SignInError::Hash(error) => error.into(),
            SignInError::Db(error) => error.into(),
        }
    }
}

impl Refusal for MfaError {
    fn codes() -> Vec<Code> {
        vec![
            Code::MfaCodeInvalid,
            Code::MfaEnrolledAlready,
            Code::MfaNotEnrolled,
            Code::NotFound,
            Code::TooManyPasskeys,
            Code::PasskeyCeremonyInvalid,
            Code::PasskeyInvalid,
        ]
    }
}

impl From<MfaError> for Problem {
    fn from(error: MfaError) -> Self {
        match error {
            MfaError::CodeInvalid => Self::new(
                Code::MfaCodeInvalid,
                "Enter the code that your app shows now. Each code works only once.",
            ),
            MfaError::EnrolledAlready => Self::new(
                Code::MfaEnrolledAlready,
                "Remove the authenticator app before you set up another one.",
            ),
            MfaError::NotEnrolled => {
                Self::new(Code::MfaNotEnrolled, "Set up an authenticator app or a passkey first.")
            }
            MfaError::NoSuchPasskey => {
                Self::new(Code::NotFound, "You have no passkey with this ID.")
            }
            MfaError::TooManyPasskeys => {
                Self::new(Code::TooManyPasskeys, "Remove a passkey that you no longer use first.")
            }
            MfaError::CeremonyInvalid => Self::new(
                Code::PasskeyCeremonyInvalid,
                "The request took too long, or the credential belongs to another request. Start again.",
            ),
            MfaError::PasskeyInvalid => Self::new(
                Code::PasskeyInvalid,
                "Start again with a passkey that is registered for this account.",
            ),
            MfaError::Seal(error) => Self::internal(&error),
            MfaError::Db(error) => error.into(),
        }
    }
}

impl Refusal for RefreshError {
    fn codes() -> Vec<Code> {
        vec![
            Code::RefreshTokenInvalid,
            Code::RefreshRaced,
            Code::TenantSuspended,
            Code::IpNotAllowed,
        ]
    }
}

impl From<RefreshError> for Problem {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Invalid => Self::new(
                Code::RefreshTokenInvalid,
                "The refresh token is missing, invalid or expired. Sign in again.",
            ),
            RefreshError::Raced => Self::new(
                Code::RefreshRaced,
                "Use the refresh token that the other request received.",
            ),
            RefreshError::TenantSuspended => SignInError::TenantSuspended.into(),
            RefreshError::IpNotAllowed => Self::ip_not_allowed(),
            RefreshError::Switch(error) => error.into(),
            RefreshError::Db(error) => error.into(),
        }
    }
}

impl Refusal for ApiKeyError {
    fn codes() -> Vec<Code> {
        vec![
            Code::NotFound,
            Code::RoleTooHigh,
            Code::PreconditionFailed,
            Code::TooManyApiKeys,
            Code::ValidationFailed,
        ]
    }
}

impl From<ApiKeyError> for Problem {
    fn from(error: ApiKeyError) -> Self {
        match error {
            ApiKeyError::NotFound => {
                Self::new(Code::NotFound, "The tenant has no API key with this ID.")
            }
            ApiKeyError::Reach(OutOfReach::TooHigh) => Self::new(
                Code::RoleTooHigh,
                "The scopes of an API key cannot go beyond your own permissions. Ask a member who has them.",
            ),
            ApiKeyError::Reach(OutOfReach::NotRecent) => NotRecent.into(),
            ApiKeyError::TooMany => {
                Self::new(Code::TooManyApiKeys, "Revoke an API key that you no longer need first.")
            }
            ApiKeyError::ExpiryPassed => Self::fields(vec![FieldError {
                field: "expires_at".to_owned(),
                code: "out_of_range",
                message: "must be in the future".to_owned(),
            }]),
            ApiKeyError::Changed => Self::precondition_failed(),
            ApiKeyError::Seal(error) => Self::internal(&error),
            ApiKeyError::Db(error) => error.into(),
        }
    }
}

impl Refusal for RoleError {
    fn codes() -> Vec<Code> {
        vec![
            Code::NotFound,
            Code::RoleBuiltIn,
            Code::RoleNameTaken,
            Code::RoleTooHigh,
            Code::PreconditionFailed,
            Code::RoleInUse,
            Code::TooManyRoles,
        ]
    }
}

impl From<RoleError> for Problem {
    fn from(error: RoleError) -> Self {
        match error {
            RoleError::NotFound => {
                Self::new(Code::NotFound, "The tenant has no role with this ID.")
            }
            RoleError::BuiltIn => Self::new(
                Code::RoleBuiltIn,
                "Create a role of the tenant's own with the permissions that you need.",
            ),
            RoleError::NameTaken => Self::new(Code::RoleNameTaken, "Choose another name."),
            RoleError::Reach(reason) => reason.into(),
            RoleError::Changed => Self::precondition_failed(),
            RoleError::InUse => Self::new(
                Code::RoleInUse,
                "Give its members another role first, and remove the invitations, invite links and domains that grant it.",
            ),
            RoleError::TooMany => Self::new(Code::TooManyRoles, "Delete an unused role first."),
            RoleError::Db(error) => error.into(),
        }
    }
}

impl Refusal for MemberError {
    fn codes() -> Vec<Code> {
        vec![Code::NotFound, Code::NoSuchRole, Code::RoleTooHigh, Code::LastOwner]
    }
}

impl From<MemberError> for Problem {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::NotFound => {
                Self::new(Code::NotFound, "The tenant has no member with this ID.")
            }
            MemberError::NoSuchRole => Self::no_such_role(),
            MemberError::Reach(reason) => reason.into(),
            MemberError::LastOwner => {
                Self::new(Code::LastOwner, "Make another member an owner first.")
            }
            MemberError::Db(error) => error.into(),
        }
    }
}

impl Refusal for TransferError {
    fn codes() -> Vec<Code> {
        vec![Code::NotFound, Code::NoSuchMember, Code::OwnerAlready, Code::RoleTooHigh]
    }
}

impl From<TransferError> for Problem {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::NotFound => Self::new(
                Code::NotFound,
                "There is no pending ownership offer with this ID. It may have been accepted or cancelled, or it may have expired.",
            ),
            TransferError::NoSuchMember => {
                Self::new(Code::NoSuchMember, "Use the ID of a member of the tenant.")
            }
            TransferError::OwnerAlready => {
                Self::new(Code::OwnerAlready, "Choose a member who is not an owner.")
            }
            TransferError::NotOwner => Self::role_too_high(),
            TransferError::Db(error) => error.into(),
        }
    }
}

impl Refusal for InviteError {
    fn codes() -> Vec<Code> {
        vec![
            Code::NotFound,
            Code::NoSuchRole,
            Code::RoleTooHigh,
            Code::AlreadyMember,
            Code::TooManyInvitations,
            Code::EmailDomainNotAllowed,
            Code::MailBudgetExhausted,
        ]
    }
}

impl From<InviteError> for Problem {
    fn from(error: InviteError) -> Self {
        match error {
            InviteError::NotFound => Self::new(
                Code::NotFound,
                "There is no pending invitation with this ID. It may have been accepted or cancelled, or it may have expired.",
            ),
            InviteError::NoSuchRole => Self::no_such_role(),
            InviteError::Reach(reason) => reason.into(),
            InviteError::AlreadyMember => Self::new(
                Code::AlreadyMember,
                "They do not need an invitation. Change their role if it is not the right one.",
            ),
            InviteError::TooMany => Self::new(
                Code::TooManyInvitations,
                "Cancel some pending invitations, or wait until some are accepted.",
            ),
            InviteError::DomainNotAllowed => Self::field(
                Code::EmailDomainNotAllowed,
                "The tenant only invites email addresses at certain domains. See its security settings.",
                "email",
                "is at a domain that the tenant does not allow",
            ),
            InviteError::BudgetSpent(wait) => Self::mail_budget_exhausted(wait),
            InviteError::Db(error) => error.into(),
        }
    }
}

impl Refusal for ListError {
    fn codes() -> Vec<Code> {
        vec![Code::TooManyInvitationLists, Code::MailBudgetExhausted]
    }
}

impl From<ListError> for Problem {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Reach(reason) => reason.into(),
            ListError::TooMany => Self::new(
                Code::TooManyInvitationLists,
                "Wait until an earlier list is completed, or submit a shorter list.",
            ),
            ListError::BudgetSpent(wait) => Self::mail_budget_exhausted(wait),
            ListError::Batch(error) => error.into(),
            ListError::Db(error) => error.into(),
        }
    }
}

impl Refusal for InviteLinkError {
    fn codes() -> Vec<Code> {
        vec![
            Code::NotFound,
            Code::NoSuchRole,
            Code::RoleTooHigh,
            Code::ValidationFailed,
            Code::TooManyInviteLinks,
            Code::EmailDomainNotAllowed,
        ]
    }
}

impl From<InviteLinkError> for Problem {
    fn from(error: InviteLinkError) -> Self {
        match error {
            InviteLinkError::NotFound => Self::new(
                Code::NotFound,
                "There is no invite link with this ID. It may have been deleted, or it may have expired.",
            ),
            InviteLinkError::NoSuchRole => Self::no_such_role(),
            InviteLinkError::Reach(reason) => reason.into(),
            InviteLinkError::OwnerRole => Self::fields(vec![FieldError {
                field: "role".to_owned(),
                code: "not_by_link",
                message: OWNERS_ONE_BY_ONE.to_owned(),
            }]),
            InviteLinkError::TooMany => Self::new(
                Code::TooManyInviteLinks,
                "Delete some invite links, or wait until some expire.",
            ),
            InviteLinkError::DomainNotAllowed => Self::field(
                Code::EmailDomainNotAllowed,
                "The tenant only invites email addresses at certain domains. See its security settings.",
                "domains",
                "include one that the tenant does not allow",
            ),
            InviteLinkError::Db(error) => error.into(),
        }
    }
}

impl Refusal for JoinError {
    fn codes() -> Vec<Code> {
        vec![
            Code::TokenInvalid,
            Code::InvitationNotYours,
            Code::Unauthenticated,
            Code::MfaRequired,
            Code::InvalidCredentials,
            Code::ValidationFailed,
            Code::PasswordTooWeak,
            Code::AccountDisabled,
            Code::AlreadyMember,
            Code::TenantSuspended,
            Code::IpNotAllowed,
            Code::EmailDomainNotAllowed,
        ]
    }
}

impl From<JoinError> for Problem {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::TokenInvalid => VerifyError::TokenInvalid.into(),
            JoinError::NotYours => Self::new(
                Code::InvitationNotYours,
                "Sign out, or sign in with the email address that was invited.",
            ),
            JoinError::SignedOut => Self::unauthenticated(true),
            JoinError::SecondFactorRequired => SignInError::SecondFactorRequired.into(),
            JoinError::InvalidCredentials => SignInError::InvalidCredentials.into(),
            JoinError::Missing { name, password } => {
                let missing = [("name", name), ("password", password)]
                    .into_iter()
                    .filter(|(_, missing)| *missing);
                Self::fields(missing.map(|(field, _)| FieldError::required(field)).collect())
            }
            JoinError::TooWeak(reason) => Self::too_weak("password", &reason),
            JoinError::Password(reason) => {
                Self::fields(vec![FieldError::password("password", &reason)])
            }
            JoinError::AccountDisabled => SignInError::AccountDisabled.into(),
            JoinError::AlreadyMember => Self::new(
                Code::AlreadyMember,
                "You are already a member of this tenant. Sign in or switch to it.",
            ),
            JoinError::TenantSuspended => SignInError::TenantSuspended.into(),
            JoinError::IpNotAllowed => Self::ip_not_allowed(),
            JoinError::DomainNotAllowed => Self::new(
                Code::EmailDomainNotAllowed,
                "The tenant no longer accepts your email domain. Ask the person who invited you.",
            ),
            JoinError::AccountMade => Self::new(
                Code::InvalidCredentials,
                "An account with this email address was created in the meantime. Enter its password.",
            ),
            JoinError::Hash(error) => error.into(),
            JoinError::Db(error) => error.into(),
        }
    }
}

impl Refusal for DomainError {
    fn codes() -> Vec<Code> {
        vec![
            Code::NotFound,
            Code::DomainAddedAlready,
            Code::TooManyDomains,
            Code::Forbidden,
            Code::NoSuchRole,
            Code::RoleTooHigh,
            Code::ValidationFailed,
        ]
    }
}

impl From<DomainError> for Problem {
    fn from(error: DomainError) -> Self {
        match error {
            DomainError::NotFound => {
                Self::new(Code::NotFound, "The tenant has no domain with this ID.")
            }
            DomainError::AddedAlready => {
                Self::new(Code::DomainAddedAlready, "Find it in the list of the tenant's domains.")
            }
            DomainError::TooMany => {
                Self::new(Code::TooManyDomains, "Remove a domain that you no longer need first.")
            }
            DomainError::NotAllowed => Self::forbidden(Permission::SecurityWrite),
            DomainError::NoSuchRole => Self::no_such_role(),
            DomainError::Reach(reason) => reason.into(),
            DomainError::OwnerRole => Self::fields(vec![FieldError {
                field: "auto_invite_role".to_owned(),
                code: "not_by_address",
                message: OWNERS_ONE_BY_ONE.to_owned(),
            }]),
            DomainError::Db(error) => error.into(),
        }
    }
}

impl Refusal for CreateTenantError {
    fn codes() -> Vec<Code> {
        vec![Code::TooManyTenants, Code::SlugTaken]
    }
}

impl From<CreateTenantError> for Problem {
    fn from(error: CreateTenantError) -> Self {
        match error {
            CreateTenantError::TooMany => Self::new(
                Code::TooManyTenants,
                "Hand over a tenant that you own (`POST /api/tenant/ownership-transfers`) first.",
            ),
            CreateTenantError::SlugTaken => Self::new(
                Code::SlugTaken,
                "Choose another slug, or omit it to get one that is derived from the name.",
            ),
            CreateTenantError::AccountGone => Self::unauthenticated(true),
            CreateTenantError::Db(error) => error.into(),
        }
    }
}

impl Refusal for SecurityError {
    fn codes() -> Vec<Code> {
        vec![
            Code::Forbidden,
            Code::PreconditionFailed,
            Code::MfaEnrollmentRequired,
            Code::ValidationFailed,
        ]
    }
}

impl From<SecurityError> for Problem {
    fn from(error: SecurityError) -> Self {
        match error {
            SecurityError::NotAllowed => Self::forbidden(Permission::SecurityWrite),
            SecurityError::Changed => Self::precondition_failed(),
            SecurityError::NoSecondFactor => NoSecondFactor.into(),
            SecurityError::LocksOut => Self::fields(vec![FieldError {
                field: "ip_allowlist".to_owned(),
                code: "excludes_yourself",
                message: "must include your own IP address".to_owned(),
            }]),
            SecurityError::Db(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn a_server_error_never_reveals_its_cause() {
        let cause = DbError::Shape("canary".to_owned());
        let problem = Problem::from(cause);
        assert_eq!(problem.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!format!("{problem:?}").contains("canary"));
    }
}
