//! Problem details (RFC 9457), the format of every error response.
//!
//! One table lists every code with its status and title ([`codes`]), and every error of the domain
//! becomes a problem in one place ([`mapping`]), which also lists its codes for the OpenAPI
//! document ([`refusals`]). A problem travels as a response extension until the outermost
//! middleware writes it, because only that knows the id of the request.

mod codes;
mod mapping;
mod own;
mod refusals;
use std::{borrow::Cow, error::Error, fmt::Display, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use common::crypto::InvalidPassword;
use domain::{
    access::throttle::Act,
    identity::{
        mfa::{
            challenges::{Asked, Method},
            passkeys::Options,
        },
        passwords::NotSet,
    },
    tenancy::roles::Permission,
};
use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use codes::Code;
pub(crate) use own::{
    ApiKeyExpired, ApiKeyNotAllowed, ApiKeySuspended, ForeignOrigin, NoPasskeys, NoSecondFactor,
    NoSuchInvitationList, NoSuchSession, NotInTenant, NotJoinable, NotRecent, RefreshTokenReused,
    SignatureInvalid, SignatureReplayed,
};
pub(crate) use refusals::{Refusal, Refusals, declare, everywhere};

/// `Retry-After` when the database is unavailable.
const OUTAGE_PAUSE: Duration = Duration::from_secs(2);
/// `Retry-After` when this process is overloaded.
const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);

/// `Retry-After` when a request with the same idempotency key is in progress.
const IN_PROGRESS_PAUSE: Duration = Duration::from_secs(1);

/// An invalid field of a request body, or an invalid query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// Name of the field.
    #[schema(example = "email")]
    pub(crate) field: String,
    /// What is wrong, for programs.
    #[schema(value_type = String, example = "invalid_format")]
    pub(crate) code: &'static str,
    /// What is wrong, for people.
    #[schema(example = "must be an email address such as name@example.com")]
    pub(crate) message: String,
}

impl FieldError {
    pub(crate) fn required(field: &str) -> Self {
        Self { field: field.to_owned(), code: "required", message: "is required".to_owned() }
    }

    pub(crate) fn unchanged(field: &str) -> Self {
        Self {
            field: field.to_owned(),
            code: "unchanged",
            message: "is the current value".to_owned(),
        }
    }

    /// The field cannot be parsed, for `reason`.
    pub(crate) fn invalid(field: &str, reason: &impl Display) -> Self {
        Self { field: field.to_owned(), code: "invalid_format", message: reason.to_string() }
    }

    /// The field is not acceptable as a password.
    pub(crate) fn password(field: &str, reason: &InvalidPassword) -> Self {
        let code = match reason {
            InvalidPassword::TooShort(_) => "too_short",
            InvalidPassword::TooLong => "too_long",
        };
        Self { field: field.to_owned(), code, message: reason.to_string() }
    }
}

/// Why a request was refused, and what to do next.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
    challenge: Option<&'static str>,
    mfa: Option<Box<SecondFactorWanted>>,
    policies: Vec<&'static str>,
}

/// How to continue with a second factor after `mfa_required`.
#[derive(Debug, Clone)]
struct SecondFactorWanted {
    mfa_token: String,
    methods: Vec<&'static str>,
    public_key: Option<Options>,
}

/// Why a request was refused (RFC 9457, `application/problem+json`).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Written<'a> {
    /// URI of the kind of problem.
    #[schema(example = "urn:tenantry:problem:validation_failed")]
    r#type: String,
    /// What went wrong, for people.
    title: &'a str,
    /// HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What to do next, for people.
    detail: &'a str,
    /// The kind of problem, for programs. A code never changes its meaning.
    #[schema(value_type = Code)]
    code: &'static str,
    /// Id of the request. Include it when you ask for help.
    request_id: &'a str,
    /// Each invalid field.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
    /// If `code` is `mfa_required`: send this to `POST /api/auth/mfa/verify`, with a code or a passkey
    /// credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    mfa_token: Option<&'a str>,
    /// If `code` is `mfa_required`: the second factors that the account has, among `totp`, `passkey`
    /// and `recovery_code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false, example = json!(["totp", "recovery_code"]))]
    methods: Option<&'a [&'static str]>,
    /// If `code` is `mfa_required` and the account has passkeys: the `publicKey` option of
    /// `navigator.credentials.get`, in the form that
    /// `PublicKeyCredential.parseRequestOptionsFromJSON` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    public_key: Option<&'a Options>,
    /// If `code` is `rate_limited`: the policies whose limits are reached, among `network`, `user`,
    /// `key` and `tenant`.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<String>, required = false, example = json!(["key"]))]
    violated_policies: &'a [&'static str],
}

impl Problem {
    /// The kind of problem.
    pub(crate) const fn code(&self) -> Code {
        self.code
    }

    /// A problem of this kind; `detail` says what to do next.
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let challenge = (code.status() == StatusCode::UNAUTHORIZED).then_some("Bearer");
        let retry_after = match code {
            Code::Unavailable | Code::Timeout => Some(OUTAGE_PAUSE),
            Code::Overloaded => Some(OVERLOAD_PAUSE),
            Code::RequestInProgress => Some(IN_PROGRESS_PAUSE),
            _ => None,
        };
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after,
            challenge,
            mfa: None,
            policies: Vec::new(),
        }
    }

    /// Some fields are invalid.
    pub(crate) fn fields(errors: Vec<FieldError>) -> Self {
        Self {
            errors,
            ..Self::new(
                Code::ValidationFailed,
                "Correct the fields listed in `errors` and send the request again.",
            )
        }
    }

    /// Some fields are unknown, as `detail` says; others may be invalid.
    pub(crate) fn unknown_fields(detail: String, errors: Vec<FieldError>) -> Self {
        Self { errors, ..Self::new(Code::UnknownField, detail) }
    }

    /// One field is invalid, for a reason that has its own code.
    pub(crate) fn field(
        code: Code,
        detail: &'static str,
        field: &'static str,
        message: &str,
    ) -> Self {
        let error = FieldError {
            field: field.to_owned(),
            code: code.as_str(),
            message: message.to_owned(),
        };
        Self { errors: vec![error], ..Self::new(code, detail) }
    }

    /// The password in `field` is too weak, for `reason`.
    pub(crate) fn too_weak(field: &'static str, reason: &impl Display) -> Self {
        let error = FieldError {
            field: field.to_owned(),
            code: Code::PasswordTooWeak.as_str(),
            message: reason.to_string(),
        };
        Self {
            errors: vec![error],
            ..Self::new(Code::PasswordTooWeak, format!("The password {reason}"))
        }
    }

    /// The password in `field` was not set.
    pub(crate) fn not_set(field: &'static str, error: NotSet) -> Self {
        match error {
            NotSet::Invalid(reason) => Self::fields(vec![FieldError::password(field, &reason)]),
            NotSet::TooWeak(reason) => Self::too_weak(field, &reason),
            NotSet::Hash(error) => error.into(),
        }
    }

    /// There were too many attempts at `act`; the next one is allowed after `wait`.
    pub(crate) fn too_many_attempts(act: Act, wait: Duration) -> Self {
        let detail = match act {
            Act::SignIn => {
                "Try again later or from a network that you have signed in from before, or reset your password."
            }
            Act::CheckDomain => {
                "The DNS record was checked too often recently. Wait until it has propagated, then try again."
            }
            Act::ForgetPassword => "Use the link in the latest email, or try again later.",
            Act::ChangeEmail => "Use the links in the latest emails, or try again later.",
            Act::Register | Act::ResendVerification | Act::Invite | Act::FollowInviteLink => {
                "Use the link in an earlier email, or try again later."
            }
            Act::ReportApiKeys => "Send more keys in one request, or try again later.",
            Act::SecondFactor | Act::ResetPassword | Act::FollowInvitation => "Try again later.",
        };
        Self { retry_after: Some(whole_seconds(wait)), ..Self::new(Code::TooManyAttempts, detail) }
    }

    /// The limits of these `policies` are reached; the next request is allowed after `wait`.
    pub(crate) fn rate_limited(policies: Vec<&'static str>, wait: Duration) -> Self {
        let detail = format!(
            "The limit of requests per minute is reached ({}). Wait for `Retry-After` seconds, then send the request again. Spread requests evenly.",
            policies.join(", "),
        );
        let problem = Self::new(Code::RateLimited, detail);
        Self { retry_after: Some(whole_seconds(wait)), policies, ..problem }
    }

    /// The tenant has exhausted its mail budget of today; the next day begins after `wait`.
    pub(crate) fn mail_budget_exhausted(wait: Duration) -> Self {
        let detail = "The tenant can send such mails again tomorrow (UTC). The limit grows with the tenant's age and with accepted invitations; the operator of this installation can raise it.";
        let problem = Self::new(Code::MailBudgetExhausted, detail);
        Self { retry_after: Some(whole_seconds(wait)), ..problem }
    }

    /// The access token is missing (`presented` is false), invalid or expired.
    pub(crate) fn unauthenticated(presented: bool) -> Self {
        let problem = Self::new(
            Code::Unauthenticated,
            "Send a valid access token, or the API key of a program, in the header `Authorization: Bearer …`.",
        );
        // RFC 6750 §3.1: no error code when the request has no token.
        Self {
            challenge: Some(if presented { "Bearer error=\"invalid_token\"" } else { "Bearer" }),
            ..problem
        }
    }

    /// The caller's role does not include `permission`.
    pub(crate) fn forbidden(permission: Permission) -> Self {
        Self::new(
            Code::Forbidden,
            format!(
                "This action requires the permission `{}`. Ask an owner or admin of the tenant for it.",
                permission.as_str()
            ),
        )
    }

    /// The credentials are correct, and a second factor is required as well.
    pub(crate) fn mfa_required(asked: Asked) -> Self {
        let wanted = SecondFactorWanted {
            mfa_token: asked.token.expose().to_owned(),
            methods: asked.methods.into_iter().map(Method::as_str).collect(),
            public_key: asked.passkey,
        };
        Self {
            mfa: Some(Box::new(wanted)),
            ..Self::new(
                Code::MfaRequired,
                "Send `mfa_token` with a code or a passkey credential to `POST /api/auth/mfa/verify`.",
            )
        }
    }

    /// The tenant does not allow access from the client's IP address.
    pub(crate) fn ip_not_allowed() -> Self {
        Self::new(Code::IpNotAllowed, "Connect from one of the networks that the tenant allows.")
    }

    /// The resource has changed since the client read it.
    pub(crate) fn precondition_failed() -> Self {
        Self::new(
            Code::PreconditionFailed,
            "Read the resource again and repeat the change on its current state.",
        )
    }

    /// The caller would grant or revoke permissions that they do not have.
    pub(crate) fn role_too_high() -> Self {
        Self::new(
            Code::RoleTooHigh,
            "Choose a role that has no permissions beyond your own. Only owners can add or change owners.",
        )
    }

    /// The tenant has no such role.
    pub(crate) fn no_such_role() -> Self {
        Self::new(
            Code::NoSuchRole,
            "Use a built-in role, or the ID of one of the tenant's own roles.",
        )
    }

    /// The email address is at none of the domains of an invite link.
    pub(crate) fn not_of_link() -> Self {
        let refusal = "must be at one of the domains that the link and the tenant allow";
        Self::field(
            Code::EmailDomainNotAllowed,
            "Use an email address at one of the domains of the link.",
            "email",
            refusal,
        )
    }

    /// The database is unavailable.
    pub(crate) fn unavailable() -> Self {
        Self::new(Code::Unavailable, "Try again in a few seconds.")
    }

    /// An unexpected error. Its cause is logged and never sent to the client.
    pub(crate) fn internal(cause: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = %chain(cause), "request_failed");
        Self::defect()
    }

    /// An unexpected error whose cause was logged already.
    pub(crate) fn defect() -> Self {
        Self::new(
            Code::Internal,
            "The error was logged. If it persists, contact support with the `request_id`.",
        )
    }

    /// The problem for a request that the HTTP layer rejected with a bare `status`.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => {
                (Code::NotFound, "There is nothing at this path. Check the URL.")
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                (Code::MethodNotAllowed, "Use one of the methods in the `Allow` header.")
            }
            StatusCode::PAYLOAD_TOO_LARGE => (Code::BodyTooLarge, "Send a smaller request."),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => (
                Code::UnsupportedMediaType,
                "See the API documentation for the content types of this endpoint.",
            ),
            StatusCode::BAD_REQUEST => (Code::BadRequest, "Check the syntax of the request."),
            status if status.is_server_error() => return Self::defect(),
            _ => (Code::Refused, "Check the request against the API documentation."),
        };
        Self::new(code, detail)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.code.status()
    }

    pub(crate) fn title(&self) -> &'static str {
        self.code.title()
    }

    /// What to do next, on pages that do not show the fields' errors separately.
    pub(crate) fn explanation(&self) -> String {
        if self.errors.is_empty() {
            return self.detail.clone().into_owned();
        }
        let sentences: Vec<String> = self
            .errors
            .iter()
            .map(|error| format!("The {} {}.", error.field, error.message.trim_end_matches('.')))
            .collect();
        sentences.join(" ")
    }

    /// The body of the response.
    pub(crate) fn write(&self, request_id: &str) -> Vec<u8> {
        let mfa = self.mfa.as_deref();
        let written = Written {
            r#type: format!("urn:tenantry:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.status().as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            request_id,
            errors: &self.errors,
            mfa_token: mfa.map(|mfa| mfa.mfa_token.as_str()),
            methods: mfa.map(|mfa| mfa.methods.as_slice()),
            public_key: mfa.and_then(|mfa| mfa.public_key.as_ref()),
            violated_policies: &self.policies,
        };
        // Strings and numbers only: this cannot fail.
        serde_json::to_vec(&written).unwrap_or_default()
    }
}

/// `wait` in whole seconds, rounded up.
fn whole_seconds(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
}

impl IntoResponse for Problem {
    /// The head of the response; [`Problem::write`] adds the body.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(pause) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)));
        }
        if matches!(self.code, Code::RequestTimeout | Code::BodyTooLarge) {
            // The rest of the body is not read, so the connection cannot carry another request.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// An error and its sources, on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        // A transparent error repeats the text of its source.
        let message = error.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}
