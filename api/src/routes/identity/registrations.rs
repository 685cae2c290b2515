//! Registrations: asking for an account and proving that an address is one's own.

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{crypto::Password, email::Email, name::Name};
use domain::{
    access::throttle::Act,
    identity::{
        passwords::Context,
        registrations as changes,
        registrations::{AddressDigest, NewRegistration},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    extract::{Client, Fields, FromFields, Json, Open},
    problem::Problem,
    state::App,
    throttle::Guard,
};

/// What someone who asks for an account sends.
#[derive(ToSchema)]
pub(crate) struct Register {
    /// The address to verify; the account's name from then on.
    #[schema(value_type = String, format = "email", max_length = 254, example = "ada@example.com")]
    email: Email,
    /// At least 8 characters and at most 1024 bytes; any characters at all.
    #[schema(value_type = String, format = "password", min_length = 8, max_length = 1024, example = "correct horse battery staple")]
    password: Password,
    /// What the person is called.
    #[schema(value_type = String, min_length = 1, max_length = 100, example = "Ada Lovelace")]
    name: Name,
    /// What their tenant will be called.
    #[schema(value_type = String, min_length = 1, max_length = 100, example = "Analytical Engines")]
    tenant_name: Name,
}

impl FromFields for Register {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (email, password) =
            (fields.required("email"), fields.required_as("password", Password::chosen));
        let (name, tenant_name) = (fields.required("name"), fields.required("tenant_name"));
        Some(Self { email: email?, password: password?, name: name?, tenant_name: tenant_name? })
    }
}

/// A link's token.
#[derive(ToSchema)]
pub(crate) struct VerifyEmail {
    /// The `token` of the mailed link.
    token: String,
}

impl FromFields for VerifyEmail {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { token: fields.required_text("token")? })
    }
}

/// Whose link is to be mailed again.
#[derive(ToSchema)]
pub(crate) struct Resend {
    /// The address to verify.
    #[schema(value_type = String, format = "email", max_length = 254, example = "ada@example.com")]
    email: Email,
}

impl FromFields for Resend {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { email: fields.required("email")? })
    }
}

/// How far the verification of an address is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Progress {
    /// `verification_email_sent` or `verified`.
    #[schema(value_type = String, example = "verification_email_sent")]
    status: &'static str,
}

const SENT: Progress = Progress { status: "verification_email_sent" };
const VERIFIED: Progress = Progress { status: "verified" };

/// Ask for an account.
///
/// Mails a link that verifies the address; user and tenant come into being when it is followed.
/// The answer is the same whether or not the address has an account already, whose owner is told
/// by mail. A password that is easy to guess, or known to have been stolen, is refused as
/// `password_too_weak` (422) with what to do about it.
#[utoipa::path(
    post, path = "/api/auth/register", tag = "Registration", request_body = Register,
    responses((status = 202, description = "A mail is on its way.", body = Progress))
)]
pub(crate) async fn register(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Register>,
) -> Result<Response, Problem> {
    let Register { email, password, name, tenant_name } = body;
    let _counted = Guard::of_address(&app, Act::Register, &email, &client).admit().await?;
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

/// Verify an address.
///
/// Uses up the link's token and makes the user, their tenant and its owner. A token that is
/// wrong, used or expired is refused as `token_invalid`.
#[utoipa::path(
    post, path = "/api/auth/verify-email", tag = "Registration", request_body = VerifyEmail,
    responses((status = 200, description = "The address is verified.", body = Progress))
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

/// Uses up a link's token.
pub(crate) async fn verify_by_token(
    app: &App,
    client: &Client,
    token: &str,
) -> Result<(), Problem> {
    let verify = changes::VerifyEmail::with_token(&app.key, token, app.auth.resend_cooldown)?;
    app.jobs.commit(&client.origin(), &verify).await?;
    Ok(())
}

/// Ask for the verification mail again.
///
/// Mails to one address are at least a minute apart; what is asked for sooner is not sent. The
/// answer is the same for every address, also when it was asked for too often (`too_many_attempts`,
/// 429).
#[utoipa::path(
    post, path = "/api/auth/verify-email/resend", tag = "Registration", request_body = Resend,
    responses((status = 202, description = "If the address waits to be verified, a mail is on its way.", body = Progress))
)]
pub(crate) async fn resend(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Resend>,
) -> Result<Response, Problem> {
    let _counted =
        Guard::of_address(&app, Act::ResendVerification, &body.email, &client).admit().await?;
    app.jobs
        .commit(
            &client.origin(),
            &changes::AskAgain { address: AddressDigest::of(&app.key, &body.email) },
        )
        .await?;
    Ok((StatusCode::ACCEPTED, Answer(SENT)).into_response())
}
