//! The table of problem codes. Clients branch on codes: one is never renamed and never changes its
//! meaning.

use std::borrow::Cow;

use axum::http::StatusCode;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

macro_rules! codes {
    ($($variant:ident = $status:ident $code:literal $title:literal;)+) => {
        /// What went wrong, in a form that programs can rely on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Code { $($variant,)+ }

        impl Code {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code as it is written in responses.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The HTTP status of the response.
            pub(crate) const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }

            /// What went wrong, for people.
            pub(crate) const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }
        }
    };
}

codes! {
    BadRequest = BAD_REQUEST "bad_request" "The request is malformed";
    MalformedJson = BAD_REQUEST "malformed_json" "The request body is not valid JSON";
    TokenInvalid = BAD_REQUEST "token_invalid" "The link is invalid or has expired";
    Unauthenticated = UNAUTHORIZED "unauthenticated" "Authentication is required";
    InvalidCredentials = UNAUTHORIZED "invalid_credentials" "The email address or password is incorrect";
    EmailNotVerified = FORBIDDEN "email_not_verified" "The email address is not verified";
    AccountDisabled = FORBIDDEN "account_disabled" "The account is disabled";
    RefreshTokenInvalid = UNAUTHORIZED "refresh_token_invalid" "The session has ended";
    TokenReused = UNAUTHORIZED "token_reused" "The refresh token was already used";
    RefreshRaced = CONFLICT "refresh_raced" "The session was refreshed by another request";
    OriginRefused = FORBIDDEN "origin_refused" "Requests from other websites are not allowed";
    MfaRequired = UNAUTHORIZED "mfa_required" "A second factor is required";
    MfaTokenInvalid = UNAUTHORIZED "mfa_token_invalid" "The sign-in has expired";
    MfaCodeInvalid = UNAUTHORIZED "mfa_code_invalid" "The second factor is incorrect";
    MfaEnrollmentRequired = FORBIDDEN "mfa_enrollment_required" "The tenant requires a second factor";
    MfaEnrolledAlready = CONFLICT "mfa_enrolled_already" "An authenticator app is already set up";
    MfaNotEnrolled = CONFLICT "mfa_not_enrolled" "No second factor is set up";
    TooManyPasskeys = CONFLICT "too_many_passkeys" "You have reached the limit of passkeys";
    PasskeyCeremonyInvalid = BAD_REQUEST "passkey_ceremony_invalid" "The passkey request is invalid or has expired";
    PasskeyInvalid = UNAUTHORIZED "passkey_invalid" "The passkey was not accepted";
    PasskeysUnavailable = CONFLICT "passkeys_unavailable" "Passkeys are not available";
    ReauthenticationRequired = FORBIDDEN "reauthentication_required" "Please sign in again to continue";
    Forbidden = FORBIDDEN "forbidden" "You do not have the required permission";
    IpNotAllowed = FORBIDDEN "ip_not_allowed" "Access from this IP address is not allowed";
    SessionTooOld = FORBIDDEN "session_too_old" "The session is too old for the tenant";
    RoleTooHigh = FORBIDDEN "role_too_high" "You cannot grant permissions that you do not have";
    LastOwner = CONFLICT "last_owner" "A tenant must have an owner";
    OwnerAlready = CONFLICT "owner_already" "The member is already an owner";
    InvitationNotYours = FORBIDDEN "invitation_not_yours" "The invitation is for another email address";
    AlreadyMember = CONFLICT "already_member" "The person is already a member";
    TooManyInvitations = CONFLICT "too_many_invitations" "The tenant has reached its limit of pending invitations";
    TooManyInvitationLists = CONFLICT "too_many_invitation_lists" "The tenant has reached its limit of invitation lists in progress";
    MailBudgetExhausted = TOO_MANY_REQUESTS "mail_budget_exhausted" "The tenant has reached its daily limit of emails to people who are not members";
    TooManyInviteLinks = CONFLICT "too_many_invite_links" "The tenant has reached its limit of invite links";
    EmailDomainNotAllowed = UNPROCESSABLE_ENTITY "email_domain_not_allowed" "Email addresses at this domain are not allowed";
    NoSuchRole = UNPROCESSABLE_ENTITY "no_such_role" "The role does not exist";
    DomainAddedAlready = CONFLICT "domain_added_already" "The domain has already been added";
    TooManyDomains = CONFLICT "too_many_domains" "The tenant has reached its limit of domains";
    NoSuchMember = UNPROCESSABLE_ENTITY "no_such_member" "The member does not exist";
    RoleBuiltIn = CONFLICT "role_built_in" "Built-in roles cannot be changed";
    RoleInUse = CONFLICT "role_in_use" "The role is in use";
    RoleNameTaken = CONFLICT "role_name_taken" "Another role has this name";
    TooManyRoles = CONFLICT "too_many_roles" "The tenant has reached its limit of roles";
    TooManyTenants = CONFLICT "too_many_tenants" "You have reached your limit of tenants";
    SlugTaken = CONFLICT "slug_taken" "Another tenant has this slug";
    NoTenant = FORBIDDEN "no_tenant" "You are not signed in to a tenant";
    ApiKeyNotAllowed = FORBIDDEN "api_key_not_allowed" "API keys are not allowed here";
    ApiKeyExpired = UNAUTHORIZED "api_key_expired" "The API key has expired";
    ApiKeySuspended = UNAUTHORIZED "api_key_suspended" "The API key is suspended";
    SignatureInvalid = UNAUTHORIZED "signature_invalid" "The signature of the request is missing or invalid";
    SignatureReplayed = UNAUTHORIZED "signature_replayed" "The signature was already used";
    TooManyApiKeys = CONFLICT "too_many_api_keys" "The tenant has reached its limit of API keys";
    TenantSuspended = FORBIDDEN "tenant_suspended" "The tenant is suspended";
    NotFound = NOT_FOUND "not_found" "Not found";
    TenantNotFound = NOT_FOUND "tenant_not_found" "The tenant was not found";
    MethodNotAllowed = METHOD_NOT_ALLOWED "method_not_allowed" "The method is not allowed";
    IdempotencyKeyInvalid = BAD_REQUEST "idempotency_key_invalid" "The idempotency key is invalid";
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY "idempotency_key_reused" "The idempotency key belongs to another request";
    RequestInProgress = CONFLICT "request_in_progress" "A request with this idempotency key is in progress";
    ResponseNotKept = CONFLICT "response_not_kept" "The request was carried out before and its response was too large to keep";
    PreconditionFailed = PRECONDITION_FAILED "precondition_failed" "The resource has changed in the meantime";
    RequestTimeout = REQUEST_TIMEOUT "request_timeout" "The request body did not arrive in time";
    BodyTooLarge = PAYLOAD_TOO_LARGE "body_too_large" "The request body is too large";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "The content type is not supported";
    ValidationFailed = UNPROCESSABLE_ENTITY "validation_failed" "Some fields are invalid";
    PasswordTooWeak = UNPROCESSABLE_ENTITY "password_too_weak" "The password is too weak";
    TooManyAttempts = TOO_MANY_REQUESTS "too_many_attempts" "Too many attempts";
    RateLimited = TOO_MANY_REQUESTS "rate_limited" "Too many requests";
    UnknownField = UNPROCESSABLE_ENTITY "unknown_field" "The request has unknown fields";
    Refused = BAD_REQUEST "refused" "The request was rejected";
    Internal = INTERNAL_SERVER_ERROR "internal" "Internal error";
    Overloaded = SERVICE_UNAVAILABLE "overloaded" "The service is overloaded";
    Unavailable = SERVICE_UNAVAILABLE "unavailable" "The service is temporarily unavailable";
    Timeout = SERVICE_UNAVAILABLE "timeout" "The request took too long";
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
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
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique() {
        let unique: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(unique.len(), Code::ALL.len());
    }
}
