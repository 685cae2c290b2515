//! What each error of the domain is to a client. Causes go to the log, never into an answer.

use common::{crypto::HashError, db::DbError};
use domain::{
    identity::{
        email_changes::EmailChangeError, mfa::MfaError, password_resets::ResetError,
        refresh::RefreshError, registrations::VerifyError, sign_in::SignInError,
        signing_keys::SigningError,
    },
    tenancy::{
        custom_roles::RoleError, invitations::InviteError, invite_links::InviteLinkError,
        joining::JoinError, members::MemberError, ownership::TransferError, roles::Permission,
        tenant_domains::DomainError, tenant_security::SecurityError,
    },
};
use jobs::batches::BatchError;

use super::{Code, FieldError, Problem, chain};

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
                "Too many passwords are being checked. Try again shortly.",
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

impl From<VerifyError> for Problem {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::TokenInvalid => Self::new(
                Code::TokenInvalid,
                "It is wrong, was used already, or has expired. Ask for a new one.",
            ),
            VerifyError::Db(error) => error.into(),
        }
    }
}

impl From<ResetError> for Problem {
    fn from(error: ResetError) -> Self {
        match error {
            ResetError::TokenInvalid => Self::new(
                Code::TokenInvalid,
                "It is wrong, was used already, or has expired. Ask for a new one.",
            ),
            ResetError::Db(error) => error.into(),
        }
    }
}

impl From<EmailChangeError> for Problem {
    fn from(error: EmailChangeError) -> Self {
        match error {
            EmailChangeError::TokenInvalid => Self::new(
                Code::TokenInvalid,
                "It is wrong, was used already, or has expired. Ask for the change again.",
            ),
            EmailChangeError::Unchanged => Self::fields(vec![FieldError::unchanged("new_email")]),
            EmailChangeError::AccountGone => Self::unauthenticated(true),
            EmailChangeError::Seal(_) => Self::internal(&error),
            EmailChangeError::Db(error) => error.into(),
        }
    }
}

impl From<SignInError> for Problem {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::InvalidCredentials => {
                Self::new(Code::InvalidCredentials, "Check what was given and try again.")
            }
            SignInError::EmailNotVerified => Self::new(
                Code::EmailNotVerified,
                "Follow the link in the mail we sent, or ask for a new one.",
            ),
            SignInError::SecondFactorRequired => Self::new(
                Code::MfaRequired,
                "Sign in first, with the second factor; then do this again.",
            ),
            SignInError::SecondFactorInvalid => MfaError::CodeInvalid.into(),
            SignInError::PasskeyInvalid => MfaError::PasskeyInvalid.into(),
            SignInError::ChallengeInvalid => {
                Self::new(Code::MfaTokenInvalid, "It took too long, or too many codes were wrong.")
            }
            SignInError::Seal(error) => Self::internal(&error),
            SignInError::AccountDisabled => {
                Self::new(Code::AccountDisabled, "Ask the operator of this installation.")
            }
            SignInError::TenantNotFound => Self::new(
                Code::TenantNotFound,
                "You belong to no tenant, or to none of this id: ask somebody there to invite you.",
            ),
            SignInError::TenantSuspended => {
                Self::new(Code::TenantSuspended, "Ask the operator of this installation.")
            }
            SignInError::IpNotAllowed => Self::ip_not_allowed(),
            SignInError::SessionTooOld => {
                Self::new(Code::SessionTooOld, "Sign in again, with its `tenant_id`.")
            }
            SignInError::Hash(error) => error.into(),
            SignInError::Db(error) => error.into(),
        }
    }
}

impl From<MfaError> for Problem {
    fn from(error: MfaError) -> Self {
        match error {
            MfaError::CodeInvalid => Self::new(
                Code::MfaCodeInvalid,
                "Take the code that is shown now; each is good once.",
            ),
            MfaError::EnrolledAlready => {
                Self::new(Code::MfaEnrolledAlready, "Remove the authenticator app first.")
            }
            MfaError::NotEnrolled => {
                Self::new(Code::MfaNotEnrolled, "There is no such second factor.")
            }
            MfaError::NoSuchPasskey => Self::new(Code::NotFound, "You have no such passkey."),
            MfaError::TooManyPasskeys => {
                Self::new(Code::TooManyPasskeys, "Remove one that you do not use first.")
            }
            MfaError::CeremonyInvalid => Self::new(
                Code::PasskeyCeremonyInvalid,
                "It took too long, or does not belong together.",
            ),
            MfaError::PasskeyInvalid => Self::new(
                Code::PasskeyInvalid,
                "Begin again; perhaps another passkey is known here.",
            ),
            MfaError::Seal(error) => Self::internal(&error),
            MfaError::Db(error) => error.into(),
        }
    }
}

impl From<RefreshError> for Problem {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Invalid => Self::new(Code::RefreshTokenInvalid, "Sign in again."),
            RefreshError::Raced => Self::new(
                Code::RefreshRaced,
                "Use what the other request was given, or ask again with it.",
            ),
            RefreshError::TenantSuspended => SignInError::TenantSuspended.into(),
            RefreshError::IpNotAllowed => Self::ip_not_allowed(),
            RefreshError::Db(error) => error.into(),
        }
    }
}

impl From<RoleError> for Problem {
    fn from(error: RoleError) -> Self {
        match error {
            RoleError::NotFound => Self::new(Code::NotFound, "The tenant has no such role."),
            RoleError::BuiltIn => Self::new(
                Code::RoleBuiltIn,
                "Every tenant has it as it is. Make a role of the tenant's own instead.",
            ),
            RoleError::NameTaken => Self::new(Code::RoleNameTaken, "Choose another name."),
            RoleError::TooHigh => Self::role_too_high(),
            RoleError::Changed => Self::precondition_failed(),
            RoleError::InUse => Self::new(
                Code::RoleInUse,
                "Give those who have it another role first, and cancel invitations, invite links and domains that give it.",
            ),
            RoleError::TooMany => {
                Self::new(Code::TooManyRoles, "Delete one that nobody has first.")
            }
            RoleError::Db(error) => error.into(),
        }
    }
}

impl From<MemberError> for Problem {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::NotFound => Self::new(Code::NotFound, "The tenant has no such member."),
            MemberError::NoSuchRole => Self::no_such_role(),
            MemberError::TooHigh => Self::role_too_high(),
            MemberError::LastOwner => {
                Self::new(Code::LastOwner, "Make somebody else an owner first.")
            }
            MemberError::Db(error) => error.into(),
        }
    }
}

impl From<TransferError> for Problem {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::NotFound => {
                Self::new(Code::NotFound, "There is no such offer, or it is over.")
            }
            TransferError::NoSuchMember => {
                Self::new(Code::NoSuchMember, "Nobody of this id belongs to the tenant.")
            }
            TransferError::OwnerAlready => {
                Self::new(Code::OwnerAlready, "There is nothing to hand on to them.")
            }
            TransferError::NotOwner => Self::role_too_high(),
            TransferError::Db(error) => error.into(),
        }
    }
}

impl From<InviteError> for Problem {
    fn from(error: InviteError) -> Self {
        match error {
            InviteError::NotFound => Self::new(
                Code::NotFound,
                "There is no such invitation, or it does not wait any more.",
            ),
            InviteError::NoSuchRole => Self::no_such_role(),
            InviteError::TooHigh => Self::role_too_high(),
            InviteError::AlreadyMember => {
                Self::new(Code::AlreadyMember, "There is nobody to invite.")
            }
            InviteError::TooMany => Self::new(
                Code::TooManyInvitations,
                "Cancel some first, or wait until some are accepted.",
            ),
            InviteError::DomainNotAllowed => {
                let refusal = "is of a domain that the tenant does not invite";
                Self::field(
                    Code::EmailDomainNotAllowed,
                    "The tenant's rules name the domains that it invites.",
                    "email",
                    refusal,
                )
            }
            InviteError::Db(error) => error.into(),
        }
    }
}

impl From<InviteLinkError> for Problem {
    fn from(error: InviteLinkError) -> Self {
        match error {
            InviteLinkError::NotFound => {
                Self::new(Code::NotFound, "There is no such invite link, or it has expired.")
            }
            InviteLinkError::NoSuchRole => Self::no_such_role(),
            InviteLinkError::TooHigh => Self::role_too_high(),
            InviteLinkError::OwnerRole => Self::fields(vec![FieldError {
                field: "role".to_owned(),
                code: "not_by_link",
                message: "must not be owner: owners are invited one by one".to_owned(),
            }]),
            InviteLinkError::TooMany => {
                Self::new(Code::TooManyInviteLinks, "Delete some first, or wait until some expire.")
            }
            InviteLinkError::DomainNotAllowed => {
                let refusal = "has one that the tenant does not invite";
                Self::field(
                    Code::EmailDomainNotAllowed,
                    "The tenant's rules name the domains that it invites.",
                    "domains",
                    refusal,
                )
            }
            InviteLinkError::Db(error) => error.into(),
        }
    }
}

impl From<JoinError> for Problem {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::TokenInvalid => VerifyError::TokenInvalid.into(),
            JoinError::NotYours => Self::new(
                Code::InvitationNotYours,
                "Sign out, or sign in with the address that was invited.",
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
            JoinError::Password(error) => {
                Self::fields(vec![FieldError::refused("password", &error)])
            }
            JoinError::AccountDisabled => SignInError::AccountDisabled.into(),
            JoinError::AlreadyMember => {
                Self::new(Code::AlreadyMember, "You can go on there already.")
            }
            JoinError::TenantSuspended => SignInError::TenantSuspended.into(),
            JoinError::IpNotAllowed => Self::ip_not_allowed(),
            JoinError::DomainNotAllowed => Self::new(
                Code::EmailDomainNotAllowed,
                "Its rules have changed: ask whoever invited you.",
            ),
            JoinError::AccountMade => Self::new(
                Code::InvalidCredentials,
                "There is an account of this address now: give its password.",
            ),
            JoinError::Hash(error) => error.into(),
            JoinError::Db(error) => error.into(),
        }
    }
}

impl From<DomainError> for Problem {
    fn from(error: DomainError) -> Self {
        match error {
            DomainError::NotFound => Self::new(Code::NotFound, "The tenant has no such domain."),
            DomainError::AddedAlready => {
                Self::new(Code::DomainAddedAlready, "Look for it in the list.")
            }
            DomainError::TooMany => Self::new(Code::TooManyDomains, "Remove one first."),
            DomainError::NotAllowed => Self::forbidden(Permission::SecurityWrite),
            DomainError::NoSuchRole => Self::no_such_role(),
            DomainError::TooHigh => Self::role_too_high(),
            DomainError::OwnerRole => Self::fields(vec![FieldError {
                field: "auto_invite_role".to_owned(),
                code: "not_by_address",
                message: "must not be owner: owners are invited one by one".to_owned(),
            }]),
            DomainError::Db(error) => error.into(),
        }
    }
}

impl From<SecurityError> for Problem {
    fn from(error: SecurityError) -> Self {
        match error {
            SecurityError::NotAllowed => Self::forbidden(Permission::SecurityWrite),
            SecurityError::Changed => Self::precondition_failed(),
            SecurityError::NoSecondFactor => Self::mfa_enrollment_required(),
            SecurityError::LocksOut => Self::fields(vec![FieldError {
                field: "ip_allowlist".to_owned(),
                code: "excludes_yourself",
                message: "must hold the address that you ask from".to_owned(),
            }]),
            SecurityError::Db(error) => error.into(),
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

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn a_server_error_never_tells_its_cause() {
        let cause = DbError::Shape("canary".to_owned());
        let problem = Problem::from(cause);
        assert_eq!(problem.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!format!("{problem:?}").contains("canary"));
    }
}
