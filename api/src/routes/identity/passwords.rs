//! Passwords: resetting one by an emailed link, and changing it.

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{
    crypto::Password,
    db::{DbError, Store},
    email::Email,
};
use domain::{
    access::throttle::{Act, TooMany},
    identity::{
        password_resets::{ForgotPassword, PasswordReset, ResetError, ResetPassword},
        passwords::{ChangePassword, Context, NotSet},
        sign_in::SignInError,
    },
    people::users::User,
    tenancy::belongings::Belonging,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    extract::{Account, Client, Fields, FromFields, Json, Open, is_recent},
    openapi::NewPassword,
    problem::{NotRecent, Problem, Refusals},
    state::App,
    throttle::Guard,
};

#[derive(ToSchema)]
pub(crate) struct Forgot {
    email: Email,
}

impl FromFields for Forgot {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { email: fields.required("email")? })
    }
}

/// A password reset was requested.
#[derive(Serialize, ToSchema)]
#[schema(as = PasswordResetRequested)]
pub(crate) struct Requested {
    /// Always `password_reset_email_sent`.
    #[schema(example = "password_reset_email_sent")]
    status: &'static str,
}

#[derive(ToSchema)]
#[schema(as = PasswordReset)]
pub(crate) struct Reset {
    /// The `token` of the emailed link.
    token: String,
    #[schema(value_type = NewPassword)]
    password: Password,
}

impl FromFields for Reset {
    fn read(fields: &mut Fields) -> Option<Self> {
        let token = fields.required_text("token");
        let password = fields.required_password("password", Password::chosen);
        Some(Self { token: token?, password: password? })
    }
}

#[derive(ToSchema)]
#[schema(as = PasswordChange)]
pub(crate) struct Change {
    current_password: Password,
    #[schema(value_type = NewPassword)]
    new_password: Password,
}

impl FromFields for Change {
    fn read(fields: &mut Fields) -> Option<Self> {
        let current_password = fields.required_password("current_password", Password::presented);
        let new_password = fields.required_password("new_password", Password::chosen);
        Some(Self { current_password: current_password?, new_password: new_password? })
    }
}

/// Request a password reset
///
/// Sends an email with a link to set a new password. The response is the same for every email
/// address. Emails to one email address are at least a minute apart; while one is queued, no other is
/// sent. Only the link in the latest one works. Requests and sign-ins from other networks do not
/// count towards the limit of requests.
#[utoipa::path(
    post, path = "/api/auth/password/forgot", tag = "Passwords", request_body = Forgot,
    responses(
        (status = 202, description = "An email will be sent if the email address has an account.", body = Requested),
        Refusals<TooMany>,
    )
)]
pub(crate) async fn forgot(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Forgot>,
) -> Result<Response, Problem> {
    request(&app, &client, &body.email).await?;
    Ok((StatusCode::ACCEPTED, Answer(Requested { status: "password_reset_email_sent" }))
        .into_response())
}

/// Sends a link to an email address, if it has an account.
pub(crate) async fn request(app: &App, client: &Client, email: &Email) -> Result<(), Problem> {
    let _counted = Guard::of_mailbox(app, Act::ForgetPassword, email, client).admit().await?;
    let forgot = ForgotPassword::of(&app.key, email).map_err(|error| Problem::internal(&error))?;
    app.jobs.commit(&client.origin(), &forgot).await?;
    Ok(())
}

/// Reset the password
///
/// Sets a new password with the token of the emailed link, and ends all sessions of the account. If
/// the password is rejected, the token remains valid.
#[utoipa::path(
    post, path = "/api/auth/password/reset", tag = "Passwords", request_body = Reset,
    responses(
        (status = 204, description = "The password is set, and all sessions have ended."),
        Refusals<(ResetError, NotSet, TooMany)>,
    )
)]
pub(crate) async fn reset(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Reset>,
) -> Result<StatusCode, Problem> {
    set_by_link(&app, &client, &body.token, body.password).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets the password of the account that the token of a link belongs to.
pub(crate) async fn set_by_link(
    app: &App,
    client: &Client,
    token: &str,
    password: Password,
) -> Result<(), Problem> {
    let counted = Guard::of_network(app, Act::ResetPassword, client).admit().await?;
    // Checked first: nothing is hashed for an invalid token.
    let reset = PasswordReset::pending(app.store(), &app.key, token).await?;
    app.throttle.take_back(counted).await;
    let user = User::by_id(app.store(), reset.user_id).await?.ok_or(ResetError::TokenInvalid)?;
    let hashed = app.passwords.hash(&app.hasher, password, about(app.store(), &user).await?).await;
    let password_hash = hashed.map_err(|error| Problem::not_set("password", error))?;
    app.jobs.commit(&client.origin(), &ResetPassword { reset, password_hash }).await?;
    // The owner of the mailbox does not have to wait because others guessed the password.
    Guard::forgive_sign_ins(app, &user.email, client).await;
    Ok(())
}

/// Change the password
///
/// Ends all other sessions of the account. An account with a second factor requires recent
/// authentication with it.
#[utoipa::path(
    post, path = "/api/auth/password/change", tag = "Passwords", request_body = Change,
    responses(
        (status = 204, description = "The password is changed, and all other sessions have ended."),
        Refusals<(SignInError, NotSet, TooMany, NotRecent)>,
    )
)]
pub(crate) async fn change(
    account: Account,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Change>,
) -> Result<StatusCode, Problem> {
    // The current account, not the cached one.
    let user = User::by_id(app.store(), account.user.id)
        .await?
        .ok_or_else(|| Problem::unauthenticated(true))?;
    Guard::check_password_of(&app, &client, &user, body.current_password).await?;
    // Without a second factor, the current password is proof enough.
    if user.second_factor_since.is_some() && !is_recent(&account.session, &app) {
        return Err(NotRecent.into());
    }
    let hashed =
        app.passwords.hash(&app.hasher, body.new_password, about(app.store(), &user).await?).await;
    let after = hashed.map_err(|error| Problem::not_set("new_password", error))?;
    let (kept, scope) = (account.session.id, account.scope());
    let change = ChangePassword { user: user.id, before: user.password_set_at, after, kept, scope };
    if account.commit(&app, &change).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(SignInError::InvalidCredentials.into())
    }
}

/// What a new password must not resemble, and the rules of the person's tenants.
async fn about(store: &Store, user: &User) -> Result<Context, DbError> {
    let belongings = Belonging::first_of(store, user.id).await?;
    let about = Context::default().with_email(&user.email).with_name(&user.name);
    Ok(belongings.iter().fold(about, |about, belonging| about.with_tenant(&belonging.tenant)))
}
