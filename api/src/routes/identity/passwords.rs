//! Passwords: setting a new one by a mailed link, and changing one's own.

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
    sealed_email::SealedEmail,
};
use domain::{
    access::throttle::Act,
    identity::{
        password_resets::{ForgotPassword, PasswordReset, ResetError, ResetPassword},
        passwords::{ChangePassword, Context},
        sign_in::{SignInError, belongings_of},
        users::User,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    extract::{Caller, Client, Fields, FromFields, Json, Open, is_recent},
    problem::Problem,
    state::App,
    throttle::Guard,
};

/// Whose password is forgotten.
#[derive(ToSchema)]
pub(crate) struct Forgot {
    /// The account's address.
    #[schema(value_type = String, format = "email", max_length = 254, example = "ada@example.com")]
    email: Email,
}

impl FromFields for Forgot {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { email: fields.required("email")? })
    }
}

/// What became of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Asked {
    /// Always `password_reset_email_sent`.
    #[schema(value_type = String, example = "password_reset_email_sent")]
    status: &'static str,
}

/// A link's token and the password that is to be.
#[derive(ToSchema)]
pub(crate) struct Reset {
    /// The `token` of the mailed link.
    token: String,
    /// The new password: at least 8 characters and at most 1024 bytes; any characters at all.
    #[schema(value_type = String, format = "password", min_length = 8, max_length = 1024, example = "correct horse battery staple")]
    password: Password,
}

impl FromFields for Reset {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (token, password) =
            (fields.required_text("token"), fields.required_as("password", Password::chosen));
        Some(Self { token: token?, password: password? })
    }
}

/// The password that is, and the one that is to be.
#[derive(ToSchema)]
pub(crate) struct Renew {
    /// The password one signs in with now.
    #[schema(value_type = String, format = "password", max_length = 1024)]
    current_password: Password,
    /// The new password: at least 8 characters and at most 1024 bytes; any characters at all.
    #[schema(value_type = String, format = "password", min_length = 8, max_length = 1024, example = "correct horse battery staple")]
    new_password: Password,
}

impl FromFields for Renew {
    fn read(fields: &mut Fields) -> Option<Self> {
        let current_password = fields.required_as("current_password", Password::presented);
        let new_password = fields.required_as("new_password", Password::chosen);
        Some(Self { current_password: current_password?, new_password: new_password? })
    }
}

/// Ask for a new password.
///
/// Mails a link that sets one. The answer is the same for every address, and nobody waits for the
/// mail. Mails to one address are at least a minute apart; only the link of the newest works. Who
/// asks too often is refused as `too_many_attempts` (429), also whether or not there is an account.
#[utoipa::path(
    post, path = "/api/auth/password/forgot", tag = "Password", request_body = Forgot,
    responses((status = 202, description = "If the address has an account, a mail is on its way.", body = Asked))
)]
pub(crate) async fn forgot(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Forgot>,
) -> Result<Response, Problem> {
    ask(&app, &client, &body.email).await?;
    Ok((StatusCode::ACCEPTED, Answer(Asked { status: "password_reset_email_sent" }))
        .into_response())
}

/// Has a link mailed to an address, if it has an account.
pub(crate) async fn ask(app: &App, client: &Client, email: &Email) -> Result<(), Problem> {
    let _counted = Guard::of_address(app, Act::ForgetPassword, email, client).admit().await?;
    let address = SealedEmail::seal(&app.key, email).map_err(|error| Problem::internal(&error))?;
    app.jobs.commit(&client.origin(), &ForgotPassword { address }).await?;
    Ok(())
}

/// Set a new password by a mailed link.
///
/// Uses up the link's token and ends every session of the account. A token that is wrong, used,
/// superseded or expired is refused as `token_invalid`; a password that is easy to guess, or known
/// to have been stolen, as `password_too_weak` (422) with what to do about it, and then the token
/// stays good.
#[utoipa::path(
    post, path = "/api/auth/password/reset", tag = "Password", request_body = Reset,
    responses((status = 204, description = "The password is set, and all sessions are over."))
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

/// Sets the password of the account that a link's token is for.
pub(crate) async fn set_by_link(
    app: &App,
    client: &Client,
    token: &str,
    password: Password,
) -> Result<(), Problem> {
    let counted = Guard::of_network(app, Act::ResetPassword, client).admit().await?;
    // Looked at first: nothing is hashed for a token that is worth nothing.
    let reset = PasswordReset::pending(app.store(), &app.key, token).await?;
    app.throttle.take_back(counted).await;
    let user = User::by_id(app.store(), reset.user_id).await?.ok_or(ResetError::TokenInvalid)?;
    let hashed = app.passwords.hash(&app.hasher, password, about(app.store(), &user).await?).await;
    let password_hash = hashed.map_err(|error| Problem::not_set("password", error))?;
    app.jobs.commit(&client.origin(), &ResetPassword { reset, password_hash }).await?;
    // Whoever reads the account's mail need not wait for those who guess.
    Guard::of_address(app, Act::SignIn, &user.email, client).forgive().await;
    Ok(())
}

/// Change one's password.
///
/// Ends all other sessions. Refused as `invalid_credentials` (401) when `current_password` is not
/// the account's password, as `password_too_weak` (422) when the new one is, and as
/// `reauthentication_required` (403) when the account has a second factor that was not shown of
/// late.
#[utoipa::path(
    post, path = "/api/auth/password/change", tag = "Password", request_body = Renew,
    responses((status = 204, description = "The password is changed, and all other sessions are over."))
)]
pub(crate) async fn change(
    caller: Caller,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Renew>,
) -> Result<StatusCode, Problem> {
    // The account as it is now, not as it was kept for this caller.
    let user = User::by_id(app.store(), caller.user.id)
        .await?
        .ok_or_else(|| Problem::unauthenticated(true))?;
    Guard::check_password_of(&app, &client, &user, body.current_password).await?;
    // The current password is proof enough of who needs no second factor.
    if user.second_factor_since.is_some() && !is_recent(&caller.session, &app) {
        return Err(Problem::reauthentication_required());
    }
    let hashed =
        app.passwords.hash(&app.hasher, body.new_password, about(app.store(), &user).await?).await;
    let after = hashed.map_err(|error| Problem::not_set("new_password", error))?;
    let (kept, scope) = (caller.session.id, caller.scope());
    let change = ChangePassword { user: user.id, before: user.password_set_at, after, kept, scope };
    if caller.commit(&app, &change).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(SignInError::InvalidCredentials.into())
    }
}

/// What is known of a person: their address, what they and their tenants are called, and what those
/// ask for.
async fn about(store: &Store, user: &User) -> Result<Context, DbError> {
    let belongings = belongings_of(store, user.id).await?;
    let about = Context::default().with_email(&user.email).with_name(&user.name);
    Ok(belongings.iter().fold(about, |about, belonging| about.with_tenant(&belonging.tenant)))
}
