//! Problem details (RFC 9457): the one form in which a request is refused.
//!
//! Every code a client may meet stands in one table ([`codes`]) with its status and title, and
//! every error of the domain becomes a problem in one place ([`mapping`]). A problem travels as a
//! response extension until the outermost middleware writes it, because only that knows the
//! request's id.

mod codes;
mod mapping;
use std::{borrow::Cow, error::Error, fmt::Display, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
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

use crate::extract::Refusal;

/// What a client is told to wait when the database is away.
const OUTAGE_PAUSE: Duration = Duration::from_secs(2);
/// What a client is told to wait when this process has too much to do.
const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);

/// What is wrong with one field of a body, or one parameter of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// Its name.
    #[schema(example = "email")]
    pub(crate) field: String,
    /// What is wrong, for machines.
    #[schema(value_type = String, example = "invalid_format")]
    pub(crate) code: &'static str,
    /// What is wrong, for people.
    #[schema(example = "must be an e-mail address such as name@example.com")]
    pub(crate) message: String,
}

impl FieldError {
    /// It must be there.
    pub(crate) fn required(field: &str) -> Self {
        Self { field: field.to_owned(), code: "required", message: "is required".to_owned() }
    }

    /// It is as it was.
    pub(crate) fn unchanged(field: &str) -> Self {
        Self {
            field: field.to_owned(),
            code: "unchanged",
            message: "is what it is already".to_owned(),
        }
    }

    /// It does not parse.
    pub(crate) fn refused(field: &str, refusal: &impl Refusal) -> Self {
        Self { field: field.to_owned(), code: refusal.code(), message: refusal.to_string() }
    }
}

/// Why a request was refused.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
    challenge: Option<&'static str>,
    mfa: Option<Box<SecondFactorWanted>>,
}

/// How to go on with a second factor, told with `mfa_required`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct SecondFactorWanted {
    /// Send it to `POST /api/auth/mfa/verify`, with a code or what an authenticator says.
    mfa_token: String,
    /// What the person has: `totp`, `passkey`, `recovery_code`.
    #[schema(value_type = Vec<String>, example = json!(["totp", "recovery_code"]))]
    methods: Vec<&'static str>,
    /// For people with passkeys: the `publicKey` of `navigator.credentials.get`, as
    /// `PublicKeyCredential.parseRequestOptionsFromJSON` reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    public_key: Option<Options>,
}

/// A problem as it is written (`application/problem+json`).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Written<'a> {
    /// Names the kind of problem; a URI.
    #[schema(example = "urn:tenantry:problem:validation_failed")]
    r#type: String,
    /// The kind of problem, for people.
    title: &'a str,
    /// The HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What went wrong this time and what to do, for people.
    detail: &'a str,
    /// The kind of problem, for machines; never changes its meaning.
    #[schema(value_type = Code)]
    code: &'static str,
    /// The request's id: tell it when you ask for help.
    request_id: &'a str,
    /// What is wrong with each field.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
    /// How to go on, where the `code` is `mfa_required`.
    #[serde(flatten)]
    #[schema(value_type = Option<SecondFactorWanted>)]
    mfa: Option<&'a SecondFactorWanted>,
}

impl Problem {
    /// A problem of this kind, with what to do about it.
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let challenge = (code.status() == StatusCode::UNAUTHORIZED).then_some("Bearer");
        let retry_after = match code {
            Code::Unavailable | Code::Timeout => Some(OUTAGE_PAUSE),
            Code::Overloaded => Some(OVERLOAD_PAUSE),
            _ => None,
        };
        Self { code, detail: detail.into(), errors: Vec::new(), retry_after, challenge, mfa: None }
    }

    /// Fields that are not acceptable.
    pub(crate) fn fields(errors: Vec<FieldError>) -> Self {
        Self {
            errors,
            ..Self::new(Code::ValidationFailed, "See `errors` for what is wrong with each field.")
        }
    }

    /// Fields that are not acceptable, and among them some that mean nothing, as `detail` says.
    pub(crate) fn unknown_fields(detail: String, errors: Vec<FieldError>) -> Self {
        Self { errors, ..Self::new(Code::UnknownField, detail) }
    }

    /// One field is not acceptable, for a reason that has a code of its own.
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

    /// The password in `field` may not be set, for `reason`.
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
            NotSet::Invalid(refusal) => Self::fields(vec![FieldError::refused(field, &refusal)]),
            NotSet::TooWeak(reason) => Self::too_weak(field, &reason),
            NotSet::Hash(error) => error.into(),
        }
    }

    /// There were too many tries of `act`; the next is let through after `wait`.
    pub(crate) fn too_many_attempts(act: Act, wait: Duration) -> Self {
        let detail = match act {
            Act::SignIn => {
                "Try again later, from a network you signed in from before, or set a new password by way of a mail."
            }
            Act::CheckDomain => {
                "It was looked for often of late. Give the record time to spread, then try again."
            }
            Act::ForgetPassword => "The link in the newest mail is good. Or try again later.",
            Act::ChangeEmail => "The links in the newest mails are good. Or try again later.",
            Act::ResendVerification => "The links that were mailed are good. Or try again later.",
            Act::Register | Act::Invite | Act::FollowInviteLink => {
                "The links in the mails that were sent are good. Or try again later."
            }
            Act::SecondFactor | Act::ResetPassword | Act::FollowInvitation => "Try again later.",
        };
        // Whole seconds, and none too few.
        let wait =
            Duration::from_secs(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX));
        Self { retry_after: Some(wait), ..Self::new(Code::TooManyAttempts, detail) }
    }

    /// No access token (`presented` is false), or one that is not good.
    pub(crate) fn unauthenticated(presented: bool) -> Self {
        let problem = Self::new(
            Code::Unauthenticated,
            "Send a valid access token: `Authorization: Bearer …`.",
        );
        // RFC 6750 §3.1: no error code for a caller that did not try.
        Self {
            challenge: Some(if presented { "Bearer error=\"invalid_token\"" } else { "Bearer" }),
            ..problem
        }
    }

    /// The caller's role lacks `permission`.
    pub(crate) fn forbidden(permission: Permission) -> Self {
        Self::new(Code::Forbidden, format!("This needs the permission `{}`.", permission.as_str()))
    }

    /// What was given is right, and a second factor is wanted beside it.
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
                "Send a code, or what an authenticator says, with the `mfa_token`.",
            )
        }
    }

    /// The caller has not proved of late who they are.
    pub(crate) fn reauthentication_required() -> Self {
        Self::new(
            Code::ReauthenticationRequired,
            "Give your password again (`POST /api/auth/reauthenticate`), then repeat this.",
        )
    }

    /// The tenant demands a second factor, and the caller has none.
    pub(crate) fn mfa_enrollment_required() -> Self {
        Self::new(
            Code::MfaEnrollmentRequired,
            "The tenant demands one: `POST /api/auth/mfa/totp/enroll`, or add a passkey.",
        )
    }

    /// The tenant is not worked in from the client's address.
    pub(crate) fn ip_not_allowed() -> Self {
        Self::new(
            Code::IpNotAllowed,
            "The tenant allows other addresses only: ask from one of its networks.",
        )
    }

    /// Somebody else changed it since the client looked.
    pub(crate) fn precondition_failed() -> Self {
        Self::new(
            Code::PreconditionFailed,
            "Look at it again, and make the change from what it is now.",
        )
    }

    /// The caller would give, or take, what they lack.
    pub(crate) fn role_too_high() -> Self {
        Self::new(
            Code::RoleTooHigh,
            "Nobody gives or takes more than they hold, and owners alone make owners.",
        )
    }

    /// The tenant has no role of that name or id.
    pub(crate) fn no_such_role() -> Self {
        Self::new(Code::NoSuchRole, "The tenant has no role of this id.")
    }

    /// The tenant invites nobody by themselves who has an address such as the caller's.
    pub(crate) fn not_open() -> Self {
        Self::new(Code::TenantNotFound, "No tenant of this id is open to your address.")
    }

    /// The address is of none of an invite link's domains.
    pub(crate) fn not_of_link() -> Self {
        let refusal = "is of no domain that the link and the tenant's rules name";
        Self::field(
            Code::EmailDomainNotAllowed,
            "Give an address of one of the link's domains.",
            "email",
            refusal,
        )
    }

    /// The tenant has no list of people to invite of that id.
    pub(crate) fn no_such_list() -> Self {
        Self::new(Code::NotFound, "There is no such list, or it is forgotten.")
    }

    /// The database does not answer.
    pub(crate) fn unavailable() -> Self {
        Self::new(Code::Unavailable, "Try again shortly.")
    }

    /// A defect: its cause goes to the log, and to nobody else.
    pub(crate) fn internal(cause: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = %chain(cause), "request_failed");
        Self::defect()
    }

    /// A defect whose cause was logged already.
    pub(crate) fn defect() -> Self {
        Self::new(Code::Internal, "The failure was logged. Tell us the request's id if it stays.")
    }

    /// What stands for an answer that HTTP machinery refused with a bare `status`.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => (Code::NotFound, "Nothing is served under this path."),
            StatusCode::METHOD_NOT_ALLOWED => {
                (Code::MethodNotAllowed, "See the `Allow` header for what is.")
            }
            StatusCode::PAYLOAD_TOO_LARGE => (Code::BodyTooLarge, "Send less."),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                (Code::UnsupportedMediaType, "See the documentation for what is read here.")
            }
            StatusCode::BAD_REQUEST => (Code::BadRequest, "The request's syntax is wrong."),
            status if status.is_server_error() => return Self::defect(),
            _ => (Code::Refused, "The request's syntax is wrong."),
        };
        Self::new(code, detail)
    }

    /// The status it is answered with.
    pub(crate) fn status(&self) -> StatusCode {
        self.code.status()
    }

    /// What went wrong, for people.
    pub(crate) fn title(&self) -> &'static str {
        self.code.title()
    }

    /// What to do about it, for people who see no field's error beside it.
    pub(crate) fn explanation(&self) -> String {
        if self.errors.is_empty() {
            return self.detail.clone().into_owned();
        }
        let told: Vec<String> = self
            .errors
            .iter()
            .map(|error| format!("The {} {}.", error.field, error.message.trim_end_matches('.')))
            .collect();
        told.join(" ")
    }

    /// The body of the answer.
    pub(crate) fn write(&self, request_id: &str) -> Vec<u8> {
        let written = Written {
            r#type: format!("urn:tenantry:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.status().as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            request_id,
            errors: &self.errors,
            mfa: self.mfa.as_deref(),
        };
        // Texts and numbers only: this cannot fail.
        serde_json::to_vec(&written).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    /// The head of the answer; [`Problem::write`] adds the body.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(pause) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)));
        }
        if matches!(self.code, Code::RequestTimeout | Code::BodyTooLarge) {
            // What is left of the body is not waited for, so no other request can follow it.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// An error and what led to it, on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        // A transparent error repeats the text of its source.
        let told = error.to_string();
        if !text.ends_with(&told) {
            text = format!("{text}: {told}");
        }
        cause = error.source();
    }
    text
}
