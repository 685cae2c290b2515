//! Changes of an account's email address, confirmed by links to the current and the new email
//! address.

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::email::Email;
use domain::{
    access::throttle::{Act, TooMany},
    identity::email_changes::{
        AskEmailChange, CancelEmailChange, ConfirmEmailChange, Confirmed, EmailChangeError,
        FollowedLink,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    extract::{Account, Client, Fields, FromFields, Json, Open, Recent},
    problem::{Problem, Refusals},
    state::App,
    throttle::Guard,
};

#[derive(ToSchema)]
pub(crate) struct NewEmail {
    new_email: Email,
}

impl FromFields for NewEmail {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { new_email: fields.required("new_email")? })
    }
}

#[derive(ToSchema)]
pub(crate) struct EmailChangeLink {
    /// The `token` of the emailed link.
    token: String,
}

impl FromFields for EmailChangeLink {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { token: fields.required_text("token")? })
    }
}

/// Progress of a change of the email address.
#[derive(Serialize, ToSchema)]
pub(crate) struct EmailChangeProgress {
    /// `confirmation_sent`, `confirmed` (by one of the two email addresses), `changed` or
    /// `cancelled`.
    #[schema(example = "confirmed")]
    status: &'static str,
}

/// Change the email address
///
/// Sends a link to the current email address and another one to the new email address. The change
/// takes effect once both links have been followed. The link to the current email address can also
/// cancel the change. A new request replaces earlier ones. The response is the same whether or not
/// the new email address has an account: if it has one, its owner is notified and the change cannot
/// be completed.
#[utoipa::path(
    post, path = "/api/auth/email/change", tag = "Email address", request_body = NewEmail,
    responses(
        (status = 202, description = "Two emails will be sent.", body = EmailChangeProgress),
        Refusals<(EmailChangeError, TooMany)>,
    )
)]
pub(crate) async fn ask(
    Recent(account): Recent<Account>,
    State(app): State<App>,
    client: Client,
    Json(body): Json<NewEmail>,
) -> Result<Response, Problem> {
    // Limits both the changes that one person requests and those to one email address.
    let _by_person =
        Guard::of_account(&app, Act::ChangeEmail, &account.user.id.to_string(), &client)
            .admit()
            .await?;
    let _of_address =
        Guard::of_mailbox(&app, Act::ChangeEmail, &body.new_email, &client).admit().await?;
    let (user, session, scope) = (account.user.id, account.session.id, account.scope());
    let (ttl, cooldown) = (app.auth.email_change_ttl, app.auth.resend_cooldown);
    account
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
                budget: app.mail_budget,
            },
        )
        .await?;
    Ok((StatusCode::ACCEPTED, Answer(EmailChangeProgress { status: "confirmation_sent" }))
        .into_response())
}

/// Confirm a change of the email address
///
/// Uses the token of an emailed link. The status is `confirmed` after the first of the two links,
/// and `changed` after the second. Then the user signs in with the new email address, all sessions
/// except the one that requested the change have ended, and links that were emailed earlier no
/// longer work.
#[utoipa::path(
    post, path = "/api/auth/email/confirm", tag = "Email address", request_body = EmailChangeLink,
    responses(
        (status = 200, description = "The change is confirmed, or has taken effect.", body = EmailChangeProgress),
        Refusals<EmailChangeError>,
    )
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

/// Confirms by the token of a link. Returns whether the email address has changed.
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
        // Like an expired link: this must not reveal that the new email address has an account.
        Confirmed::Taken { .. } => Err(EmailChangeError::TokenInvalid.into()),
    }
}

/// Cancel a change of the email address
///
/// Uses the token of the link that was sent to the current email address. The change can no longer
/// be completed.
#[utoipa::path(
    post, path = "/api/auth/email/cancel", tag = "Email address", request_body = EmailChangeLink,
    responses(
        (status = 200, description = "Cancelled.", body = EmailChangeProgress),
        Refusals<EmailChangeError>,
    )
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

/// Cancels by the token of a link.
pub(crate) async fn cancel_by_link(app: &App, client: &Client, token: &str) -> Result<(), Problem> {
    let link = FollowedLink::with_token(&app.key, token)?;
    Ok(app.jobs.commit(&client.origin(), &CancelEmailChange { link }).await?)
}
