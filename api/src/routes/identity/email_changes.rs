//! Changing the address of one's account, confirmed by links to both the old and the new.

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::email::Email;
use domain::{
    access::throttle::Act,
    identity::email_changes::{
        AskEmailChange, CancelEmailChange, ConfirmEmailChange, Confirmed, EmailChangeError,
        FollowedLink,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    extract::{Caller, Client, Fields, FromFields, Json, Open, Recent},
    problem::Problem,
    state::App,
    throttle::Guard,
};

/// Which address the account is to have.
#[derive(ToSchema)]
pub(crate) struct NewEmail {
    /// The new address.
    #[schema(value_type = String, format = "email", max_length = 254, example = "ada@example.com")]
    new_email: Email,
}

impl FromFields for NewEmail {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { new_email: fields.required("new_email")? })
    }
}

/// A link's token.
#[derive(ToSchema)]
pub(crate) struct EmailChangeLink {
    /// The `token` of the mailed link.
    token: String,
}

impl FromFields for EmailChangeLink {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { token: fields.required_text("token")? })
    }
}

/// How far the change of an address is.
#[derive(Serialize, ToSchema)]
pub(crate) struct EmailChangeProgress {
    /// `confirmation_sent`, `confirmed` (by one of the two addresses), `changed` or `cancelled`.
    #[schema(value_type = String, example = "confirmed")]
    status: &'static str,
}

/// Ask for another address.
///
/// Mails a link to the address there is and one to the new; the account has the new one when both
/// were followed, and the old one can still refuse. Asking again voids the links before. The answer
/// is the same whether or not the new address has an account: if it has, its owner is told by mail
/// and the change never happens. Who asks too often is refused as `too_many_attempts` (429), also
/// whether or not there is an account.
#[utoipa::path(
    post, path = "/api/auth/email/change", tag = "Address", request_body = NewEmail,
    responses((status = 202, description = "Two mails are on their way.", body = EmailChangeProgress))
)]
pub(crate) async fn ask(
    Recent(caller): Recent<Caller>,
    State(app): State<App>,
    client: Client,
    Json(body): Json<NewEmail>,
) -> Result<Response, Problem> {
    // Neither may one person ask for many, nor many for one.
    let _by_person =
        Guard::of_account(&app, Act::ChangeEmail, &caller.user.id.to_string(), &client)
            .admit()
            .await?;
    let _of_address =
        Guard::of_address(&app, Act::ChangeEmail, &body.new_email, &client).admit().await?;
    let (user, session, scope) = (caller.user.id, caller.session.id, caller.scope());
    let (ttl, cooldown) = (app.auth.email_change_ttl, app.auth.resend_cooldown);
    caller
        .commit(
            &app,
            &AskEmailChange {
                key: &app.key,
                user,
                session,
                scope,
                new: body.new_email,
                ttl,
                cooldown,
            },
        )
        .await?;
    Ok((StatusCode::ACCEPTED, Answer(EmailChangeProgress { status: "confirmation_sent" }))
        .into_response())
}

/// Confirm another address by a mailed link.
///
/// Uses up the link's token. The first of the two links answers `confirmed`, the second `changed`:
/// from then on one signs in with the new address, all sessions but the one that asked are over,
/// and links that were mailed before are void. A token that is wrong, used, superseded or expired
/// is refused as `token_invalid`.
#[utoipa::path(
    post, path = "/api/auth/email/confirm", tag = "Address", request_body = EmailChangeLink,
    responses((status = 200, description = "Confirmed, or changed.", body = EmailChangeProgress))
)]
pub(crate) async fn confirm(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<EmailChangeLink>,
) -> Result<Answer<EmailChangeProgress>, Problem> {
    let status =
        if confirm_by_link(&app, &client, &body.token).await? { "changed" } else { "confirmed" };
    Ok(Answer(EmailChangeProgress { status }))
}

/// Confirms by a link; tells whether the address is changed then.
pub(crate) async fn confirm_by_link(
    app: &App,
    client: &Client,
    token: &str,
) -> Result<bool, Problem> {
    let confirm =
        ConfirmEmailChange { key: &app.key, link: FollowedLink::with_token(&app.key, token)? };
    match app.jobs.commit(&client.origin(), &confirm).await? {
        Confirmed::First => Ok(false),
        Confirmed::Changed { .. } => Ok(true),
        // As if it had expired: whoever asked is not told that there is such an account.
        Confirmed::Taken { .. } => Err(EmailChangeError::TokenInvalid.into()),
    }
}

/// Refuse another address by the link that was mailed to the old one.
///
/// Uses up both links: the change will not happen. A token that is wrong, used, superseded or
/// expired, and that of the new address, is refused as `token_invalid`.
#[utoipa::path(
    post, path = "/api/auth/email/cancel", tag = "Address", request_body = EmailChangeLink,
    responses((status = 200, description = "Cancelled.", body = EmailChangeProgress))
)]
pub(crate) async fn cancel(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<EmailChangeLink>,
) -> Result<Answer<EmailChangeProgress>, Problem> {
    cancel_by_link(&app, &client, &body.token).await?;
    Ok(Answer(EmailChangeProgress { status: "cancelled" }))
}

/// Refuses by a link.
pub(crate) async fn cancel_by_link(app: &App, client: &Client, token: &str) -> Result<(), Problem> {
    let link = FollowedLink::with_token(&app.key, token)?;
    Ok(app.jobs.commit(&client.origin(), &CancelEmailChange { link }).await?)
}
