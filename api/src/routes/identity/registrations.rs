//! Registrations: creating an account and verifying its email address.

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{crypto::Password, email::Email, name::Name, sealed_email::AddressDigest};
use domain::{
    access::throttle::{Act, TooMany},
    identity::{
        passwords::{Context, NotSet},
        registrations as changes,
        registrations::{NewRegistration, VerifyError},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    extract::{Client, Fields, FromFields, Json, Open},
    openapi::NewPassword,
    problem::{Problem, Refusals},
    state::App,
    throttle::Guard,
};

#[derive(ToSchema)]
pub(crate) struct Register {
    email: Email,
    #[schema(value_type = NewPassword)]
    password: Password,
    /// Name of the person.
    name: Name,
    /// Name of their tenant.
    tenant_name: Name,
}

impl FromFields for Register {
    fn read(fields: &mut Fields) -> Option<Self> {
        let email = fields.required("email");
        let password = fields.required_password("password", Password::chosen);
        let (name, tenant_name) = (fields.required("name"), fields.required("tenant_name"));
        Some(Self { email: email?, password: password?, name: name?, tenant_name: tenant_name? })
    }
}

#[derive(ToSchema)]
pub(crate) struct VerifyEmail {
    /// The `token` of the emailed link.
    token: String,
}

impl FromFields for VerifyEmail {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { token: fields.required_text("token")? })
    }
}

#[derive(ToSchema)]
pub(crate) struct Resend {
    email: Email,
}

impl FromFields for Resend {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { email: fields.required("email")? })
    }
}

/// Progress of a registration.
#[derive(Serialize, ToSchema)]
#[schema(as = RegistrationProgress)]
pub(crate) struct Progress {
    /// `verification_email_sent` or `verified`.
    #[schema(example = "verification_email_sent")]
    status: &'static str,
}

const SENT: Progress = Progress { status: "verification_email_sent" };
const VERIFIED: Progress = Progress { status: "verified" };

/// Register
///
/// Creates an account and its first tenant once the email address is verified: the person receives
/// an email with a link. The response is the same whether or not the email address has an account;
/// the owner of an existing account is notified by email.
#[utoipa::path(
    post, path = "/api/auth/register", tag = "Registration", request_body = Register,
    responses(
        (status = 202, description = "An email will be sent.", body = Progress),
        Refusals<(NotSet, TooMany)>,
    )
)]
pub(crate) async fn register(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Register>,
) -> Result<Response, Problem> {
    let Register { email, password, name, tenant_name } = body;
    let _counted = Guard::of_mailbox(&app, Act::Register, &email, &client).admit().await?;
    let about = Context::default().with_email(&email).with_name(&name).with_name(&tenant_name);
    let hashed = app.passwords.hash(&app.hasher, password, about).await;
    let password_hash = hashed.map_err(|error| Problem::not_set("password", error))?;
    let new = NewRegistration { email, name, tenant_name, password_hash };
    app.jobs
        .commit(
            &client.origin(),
            &changes::Register { key: &app.key, new, ttl: app.auth.verification_ttl },
        )
        .await?;
    Ok((StatusCode::ACCEPTED, Answer(SENT)).into_response())
}

/// Verify an email address
///
/// Uses the token of the emailed link and creates the account, its tenant and its ownership.
#[utoipa::path(
    post, path = "/api/auth/verify-email", tag = "Registration", request_body = VerifyEmail,
    responses(
        (status = 200, description = "The email address is verified.", body = Progress),
        Refusals<VerifyError>,
    )
)]
pub(crate) async fn verify_email(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<VerifyEmail>,
) -> Result<Answer<Progress>, Problem> {
    verify_by_token(&app, &client, &body.token).await?;
    Ok(Answer(VERIFIED))
}

/// Verifies the email address that the token of a link belongs to.
pub(crate) async fn verify_by_token(
    app: &App,
    client: &Client,
    token: &str,
) -> Result<(), VerifyError> {
    let verify = changes::VerifyEmail::with_token(&app.key, token, app.auth.resend_cooldown)?;
    app.jobs.commit(&client.origin(), &verify).await?;
    Ok(())
}

/// Resend the verification email
///
/// The response is the same for every email address. Emails to one email address are at least a
/// minute apart; requests in between send nothing.
#[utoipa::path(
    post, path = "/api/auth/verify-email/resend", tag = "Registration", request_body = Resend,
    responses(
        (status = 202, description = "An email will be sent if the email address has a pending registration.", body = Progress),
        Refusals<TooMany>,
    )
)]
pub(crate) async fn resend(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Resend>,
) -> Result<Response, Problem> {
    let _counted =
        Guard::of_mailbox(&app, Act::ResendVerification, &body.email, &client).admit().await?;
    app.jobs
        .commit(
            &client.origin(),
            &changes::AskAgain { address: AddressDigest::of(&app.key, &body.email) },
        )
        .await?;
    Ok((StatusCode::ACCEPTED, Answer(SENT)).into_response())
}
