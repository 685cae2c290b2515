//! The table of everything that can go wrong, as clients may rely on it: a code is never renamed
//! and never changes its meaning.

use std::borrow::Cow;

use axum::http::StatusCode;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

macro_rules! codes {
    ($($(#[$doc:meta])+ $variant:ident = $status:ident $code:literal $title:literal;)+) => {
        /// What went wrong, for machines: stable for ever.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Code { $($(#[$doc])+ $variant,)+ }

        impl Code {
            /// As written in answers.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The status it is answered with.
            pub(crate) const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }

            /// What went wrong, for people.
            pub(crate) const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }
        }

        const CODES: &[&str] = &[$($code,)+];
    };
}

codes! {
    /// What was sent is not HTTP as we understand it: a query that cannot be read, for instance.
    BadRequest = BAD_REQUEST "bad_request" "The request cannot be understood";
    /// The body is not JSON.
    MalformedJson = BAD_REQUEST "malformed_json" "The body is not valid JSON";
    /// A link's token is wrong, used or expired.
    TokenInvalid = BAD_REQUEST "token_invalid" "The link is not valid";
    /// No access token, or none that is good.
    Unauthenticated = UNAUTHORIZED "unauthenticated" "Sign in first";
    /// The address or the password is wrong.
    InvalidCredentials = UNAUTHORIZED "invalid_credentials" "The address or the password is wrong";
    /// The password is right, and the address waits to be verified.
    EmailNotVerified = FORBIDDEN "email_not_verified" "The address has not been verified yet";
    /// The password is right, and an operator stopped the account.
    AccountDisabled = FORBIDDEN "account_disabled" "The account is disabled";
    /// The refresh token is not valid, or its session is over.
    RefreshTokenInvalid = UNAUTHORIZED "refresh_token_invalid" "The session is over";
    /// The refresh token was used before: it, or its successor, may be stolen, and its session is
    /// over.
    TokenReused = UNAUTHORIZED "token_reused" "The refresh token was used twice";
    /// Others refreshed the session a moment ago: what they were given is good.
    RefreshRaced = CONFLICT "refresh_raced" "The session was refreshed meanwhile";
    /// A page of another site asks.
    OriginRefused = FORBIDDEN "origin_refused" "Requests of other sites are refused here";
    /// A second factor is wanted.
    MfaRequired = UNAUTHORIZED "mfa_required" "A second factor is needed";
    /// What was begun with the password is over: it took too long, or too many codes were wrong.
    MfaTokenInvalid = UNAUTHORIZED "mfa_token_invalid" "Begin again with the password";
    /// The code, or what the authenticator says, is wrong.
    MfaCodeInvalid = UNAUTHORIZED "mfa_code_invalid" "The second factor is wrong";
    /// The tenant demands a second factor, and the person has none.
    MfaEnrollmentRequired = FORBIDDEN "mfa_enrollment_required" "Set up a second factor first";
    /// There is a second factor of that kind.
    MfaEnrolledAlready = CONFLICT "mfa_enrolled_already" "It is set up already";
    /// There is no second factor that codes could stand in for.
    MfaNotEnrolled = CONFLICT "mfa_not_enrolled" "Set up a second factor first";
    /// The person has as many passkeys as they may.
    TooManyPasskeys = CONFLICT "too_many_passkeys" "You have too many passkeys";
    /// The ceremony with an authenticator is over, or what it made does not belong to it.
    PasskeyCeremonyInvalid = BAD_REQUEST "passkey_ceremony_invalid" "Begin again with the passkey";
    /// The passkey that was used is not accepted.
    PasskeyInvalid = UNAUTHORIZED "passkey_invalid" "The passkey is not accepted";
    /// The installation cannot do passkeys.
    PasskeysUnavailable = CONFLICT "passkeys_unavailable" "There are no passkeys here";
    /// The caller has not proved of late who they are.
    ReauthenticationRequired = FORBIDDEN "reauthentication_required" "Prove again who you are";
    /// The role does not hold the permission.
    Forbidden = FORBIDDEN "forbidden" "Your role does not allow this";
    /// The tenant is not worked in from the client's address.
    IpNotAllowed = FORBIDDEN "ip_not_allowed" "Not from this address";
    /// Sessions in the tenant do not last for as long as this one has.
    SessionTooOld = FORBIDDEN "session_too_old" "The session is too old for the tenant";
    /// Something would be given that the caller lacks.
    RoleTooHigh = FORBIDDEN "role_too_high" "The role may do more than you";
    /// Nobody would own the tenant.
    LastOwner = CONFLICT "last_owner" "A tenant needs an owner";
    /// They own the tenant already.
    OwnerAlready = CONFLICT "owner_already" "They are an owner already";
    /// Somebody else is signed in than the one who is invited.
    InvitationNotYours = FORBIDDEN "invitation_not_yours" "The invitation is for somebody else";
    /// The address belongs to a member.
    AlreadyMember = CONFLICT "already_member" "They are a member already";
    /// As many invitations wait as may.
    TooManyInvitations = CONFLICT "too_many_invitations" "Too many invitations wait to be accepted";
    /// The tenant has as many invite links as it may have.
    TooManyInviteLinks = CONFLICT "too_many_invite_links" "The tenant has too many invite links";
    /// The tenant, or the link, does not invite addresses of the domain.
    EmailDomainNotAllowed = UNPROCESSABLE_ENTITY "email_domain_not_allowed" "The tenant does not invite such addresses";
    /// The tenant has no such role.
    NoSuchRole = UNPROCESSABLE_ENTITY "no_such_role" "There is no such role";
    /// The tenant has the domain already.
    DomainAddedAlready = CONFLICT "domain_added_already" "The tenant has the domain already";
    /// The tenant has as many domains as it may have.
    TooManyDomains = CONFLICT "too_many_domains" "The tenant has too many domains";
    /// Nobody of this id belongs to the tenant.
    NoSuchMember = UNPROCESSABLE_ENTITY "no_such_member" "There is no such member";
    /// Every tenant has the role, as it is.
    RoleBuiltIn = CONFLICT "role_built_in" "The role is built in";
    /// Somebody has the role.
    RoleInUse = CONFLICT "role_in_use" "The role is in use";
    /// Another role is called so.
    RoleNameTaken = CONFLICT "role_name_taken" "Another role has this name";
    /// The tenant has as many roles as it may have.
    TooManyRoles = CONFLICT "too_many_roles" "The tenant has too many roles";
    /// An operator stopped the tenant.
    TenantSuspended = FORBIDDEN "tenant_suspended" "The tenant is suspended";
    /// There is nothing under this path.
    NotFound = NOT_FOUND "not_found" "There is nothing here";
    /// No such tenant, or not one of the caller's.
    TenantNotFound = NOT_FOUND "tenant_not_found" "There is no such tenant";
    /// The path does not know the method.
    MethodNotAllowed = METHOD_NOT_ALLOWED "method_not_allowed" "The method is not allowed here";
    /// The resource is in another state than the one that the change was made from (`If-Match`).
    PreconditionFailed = PRECONDITION_FAILED "precondition_failed" "It was changed meanwhile";
    /// The client took too long to send its body.
    RequestTimeout = REQUEST_TIMEOUT "request_timeout" "The request did not arrive in time";
    /// The body is too long.
    BodyTooLarge = PAYLOAD_TOO_LARGE "body_too_large" "The body is too large";
    /// The body is not of a type that is read here.
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "The content type is not supported";
    /// Fields are missing or not acceptable.
    ValidationFailed = UNPROCESSABLE_ENTITY "validation_failed" "Some fields are not acceptable";
    /// The password may not be set, because it is easy to guess or known to have been stolen.
    PasswordTooWeak = UNPROCESSABLE_ENTITY "password_too_weak" "The password is too weak";
    /// There were too many tries.
    TooManyAttempts = TOO_MANY_REQUESTS "too_many_attempts" "Too many attempts";
    /// The body has fields, or the query parameters, that mean nothing here.
    UnknownField = UNPROCESSABLE_ENTITY "unknown_field" "The request has unknown fields";
    /// Another refusal of the HTTP layer.
    Refused = BAD_REQUEST "refused" "The request was refused";
    /// A defect of ours.
    Internal = INTERNAL_SERVER_ERROR "internal" "Something went wrong";
    /// More requests than this process can do.
    Overloaded = SERVICE_UNAVAILABLE "overloaded" "Too much is going on right now";
    /// The database does not answer.
    Unavailable = SERVICE_UNAVAILABLE "unavailable" "The service is temporarily unavailable";
    /// The request took too long.
    Timeout = SERVICE_UNAVAILABLE "timeout" "The request took too long";
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(CODES.iter().copied()))
            .build()
            .into()
    }
}

impl ToSchema for Code {
    fn name() -> Cow<'static, str> {
        "ProblemCode".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique() {
        let unique: std::collections::BTreeSet<_> = CODES.iter().collect();
        assert_eq!(unique.len(), CODES.len());
    }
}
