//! Script-free pages that links in mail open.
//!
//! Opening a link only shows a form, because mail scanners and previews open links too; the
//! person's own click posts the form and uses up the token. The token stays out of every place it
//! could leak to: no referrer, no cache, no foreign resource.

use std::{fmt::Display, sync::LazyLock};

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Form, Router,
    extract::{
        Query, State,
        rejection::{FormRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode, header},
    middleware::{from_fn_with_state, map_response},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use common::{crypto::Password, email::Email, name::Name};
use domain::identity::{
    email_changes::{FollowedLink, Side},
    joining::{JoinError, Joined},
    registrations::VerifyError,
};
use minijinja::{Environment, UndefinedBehavior, context, value::Serde};
use serde::Deserialize;

use crate::{
    extract::Client,
    middleware::limits,
    problem::{FieldError, Problem},
    routes::{
        identity::{
            email_changes,
            joining::{Acceptance, Preview},
            passwords, registrations,
        },
        tenancy::invite_links,
    },
    state::App,
};

const VERIFY_EMAIL: &str = "/verify-email";
const ACCEPT_INVITATION: &str = "/invitations/accept";
const RESET_PASSWORD: &str = "/reset-password";
const FORGOT_PASSWORD: &str = "/forgot-password";
const CHANGE_EMAIL: &str = "/change-email";
const CANCEL_EMAIL_CHANGE: &str = "/change-email/cancel";
const STYLE: &str = include_str!("../../pages/style.css");
/// Longer than any token. Longer texts are not repeated in a page.
const TOKEN_BYTES_MAX: usize = 256;

static PAGES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut pages = Environment::new();
    pages.set_undefined_behavior(UndefinedBehavior::Strict);
    let sources = [
        ("layout.html", include_str!("../../pages/layout.html")),
        ("verify_email.html", include_str!("../../pages/verify_email.html")),
        ("accept_invitation.html", include_str!("../../pages/accept_invitation.html")),
        ("join_by_link.html", include_str!("../../pages/join_by_link.html")),
        ("change_email.html", include_str!("../../pages/change_email.html")),
        ("reset_password.html", include_str!("../../pages/reset_password.html")),
        ("forgot_password.html", include_str!("../../pages/forgot_password.html")),
        ("message.html", include_str!("../../pages/message.html")),
    ];
    for (name, source) in sources {
        pages.add_template(name, source).expect("the embedded pages parse");
    }
    pages
});

/// No scripts, nothing from other origins, one known style, forms to this origin, no frames.
static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("a policy of plain letters is a valid header")
});

/// Query of a link.
#[derive(Deserialize)]
struct Link {
    token: String,
}

/// Form to accept an invitation.
#[derive(Deserialize)]
struct AcceptForm {
    token: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    password: Option<String>,
}

/// Form to join with an invite link.
#[derive(Deserialize)]
struct JoinForm {
    token: String,
    #[serde(default)]
    email: String,
}

/// Form to set a new password.
#[derive(Deserialize)]
struct NewPassword {
    token: String,
    password: String,
}

/// Form to request a password reset.
#[derive(Deserialize)]
struct Whose {
    email: String,
}

/// The pages and the targets of their forms. The targets need the database, and so do the pages
/// that show an invitation.
pub(super) fn routes(app: &App) -> Router<App> {
    let stored = Router::new()
        .route(VERIFY_EMAIL, post(verify_email))
        .route(RESET_PASSWORD, post(reset_password))
        .route(FORGOT_PASSWORD, post(forgot_password))
        .route(CHANGE_EMAIL, post(change_email))
        .route(CANCEL_EMAIL_CHANGE, post(cancel_email_change))
        .route(ACCEPT_INVITATION, get(show_invitation).post(accept_invitation))
        .route(invite_links::PAGE, get(show_invite_link).post(join_by_link))
        .route_layer(from_fn_with_state(app.clone(), limits::with_database));
    let pages = Router::new()
        .route(VERIFY_EMAIL, get(show_verify_email))
        .route(RESET_PASSWORD, get(show_reset_password))
        .route(FORGOT_PASSWORD, get(show_forgot_password))
        .route(CHANGE_EMAIL, get(show_change_email));
    pages.merge(stored).layer(map_response(as_page))
}

async fn show_verify_email(
    link: Result<Query<Link>, QueryRejection>,
) -> Result<Html<String>, Problem> {
    page("verify_email.html", context! { token => token_of(link)?, style => STYLE })
}

async fn show_reset_password(
    link: Result<Query<Link>, QueryRejection>,
) -> Result<Html<String>, Problem> {
    reset_form(&token_of(link)?, None)
}

async fn show_forgot_password() -> Result<Html<String>, Problem> {
    page("forgot_password.html", context! { style => STYLE })
}

/// The token shows which of the two email addresses the link was sent to. It is checked when the
/// form is sent.
async fn show_change_email(
    State(app): State<App>,
    link: Result<Query<Link>, QueryRejection>,
) -> Result<Html<String>, Problem> {
    let token = token_of(link)?;
    let is_old = FollowedLink::with_token(&app.key, &token)?.side == Side::Old;
    page("change_email.html", context! { token, is_old, style => STYLE })
}

fn token_of(link: Result<Query<Link>, QueryRejection>) -> Result<String, Problem> {
    let token = link.map_or_else(|_| String::new(), |Query(link)| link.token);
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
        Err(VerifyError::TokenInvalid.into())
    } else {
        Ok(token)
    }
}

fn reset_form(token: &str, refusal: Option<&str>) -> Result<Html<String>, Problem> {
    page("reset_password.html", context! { token, refusal, style => STYLE })
}

async fn verify_email(
    State(app): State<App>,
    client: Client,
    form: Result<Form<Link>, FormRejection>,
) -> Result<Html<String>, Problem> {
    let Form(link) = form.map_err(|rejection| unreadable(&rejection))?;
    match registrations::verify_by_token(&app, &client, &link.token).await {
        // People press the button twice, and mail programs open the link again.
        Ok(()) | Err(VerifyError::VerifiedAlready) => {}
        Err(error) => return Err(error.into()),
    }
    message(
        "Your email address is verified",
        "Your account is ready, and you can sign in now. You can close this page.",
    )
}

async fn change_email(
    State(app): State<App>,
    client: Client,
    form: Result<Form<Link>, FormRejection>,
) -> Result<Html<String>, Problem> {
    let Form(link) = form.map_err(|rejection| unreadable(&rejection))?;
    if email_changes::confirm_by_link(&app, &client, &link.token).await? {
        message(
            "Your email address has changed",
            "Sign in with the new email address from now on. You can close this page.",
        )
    } else {
        message(
            "Confirmed",
            "Your email address changes once you have also followed the link that we sent to the other email address. You can close this page.",
        )
    }
}

async fn cancel_email_change(
    State(app): State<App>,
    client: Client,
    form: Result<Form<Link>, FormRejection>,
) -> Result<Html<String>, Problem> {
    let Form(link) = form.map_err(|rejection| unreadable(&rejection))?;
    email_changes::cancel_by_link(&app, &client, &link.token).await?;
    message(
        "Your email address stays the same",
        "Someone else may be signed in to your account. Reset your password now: this signs them out.",
    )
}

async fn show_invitation(
    State(app): State<App>,
    client: Client,
    link: Result<Query<Link>, QueryRejection>,
) -> Result<Html<String>, Problem> {
    let token = link.map_or_else(|_| String::new(), |Query(link)| link.token);
    invitation_form(&app, &client, &token, None).await
}

async fn invitation_form(
    app: &App,
    client: &Client,
    token: &str,
    refusal: Option<&str>,
) -> Result<Html<String>, Problem> {
    let preview = Preview::of(app, client, token).await?;
    page(
        "accept_invitation.html",
        context! { token, preview => Serde(&preview), refusal, style => STYLE },
    )
}

async fn accept_invitation(
    State(app): State<App>,
    client: Client,
    form: Result<Form<AcceptForm>, FormRejection>,
) -> Result<Response, Problem> {
    let Form(form) = form.map_err(|rejection| match rejection.status() {
        StatusCode::UNPROCESSABLE_ENTITY => JoinError::TokenInvalid.into(),
        status => Problem::of_status(status),
    })?;
    let token = form.token.clone();
    match accepted(&app, &client, form).await {
        Ok(joined) => {
            let done = message(
                &format!("You have joined {}", joined.tenant.name),
                "You can sign in now. You can close this page.",
            )?;
            Ok(done.into_response())
        }
        // Shows the form again, with the error.
        Err(problem)
            if [StatusCode::UNPROCESSABLE_ENTITY, StatusCode::UNAUTHORIZED]
                .contains(&problem.status()) =>
        {
            let refusal = if problem.status() == StatusCode::UNAUTHORIZED {
                problem.title().to_owned()
            } else {
                problem.explanation()
            };
            Ok((problem.status(), invitation_form(&app, &client, &token, Some(&refusal)).await?)
                .into_response())
        }
        Err(problem) => Err(problem),
    }
}

async fn accepted(app: &App, client: &Client, form: AcceptForm) -> Result<Joined, Problem> {
    let AcceptForm { token, name, password } = form;
    let name = name
        .map(|name| name.parse::<Name>())
        .transpose()
        .map_err(|error| invalid("name", &error))?;
    let password = password
        .map(Password::presented)
        .transpose()
        .map_err(|error| Problem::fields(vec![FieldError::password("password", &error)]))?;
    Acceptance { token: &token, signed_in: None, name, password, start: None }
        .join(app, client)
        .await
}

async fn show_invite_link(
    State(app): State<App>,
    client: Client,
    link: Result<Query<Link>, QueryRejection>,
) -> Result<Html<String>, Problem> {
    join_form(&app, &client, &token_of(link)?, None).await
}

async fn join_form(
    app: &App,
    client: &Client,
    token: &str,
    refusal: Option<&str>,
) -> Result<Html<String>, Problem> {
    let preview = invite_links::Preview::of(app, client, token).await?;
    page(
        "join_by_link.html",
        context! { token, preview => Serde(&preview), refusal, style => STYLE },
    )
}

async fn join_by_link(
    State(app): State<App>,
    client: Client,
    form: Result<Form<JoinForm>, FormRejection>,
) -> Result<Response, Problem> {
    let Form(JoinForm { token, email }) = form.map_err(|rejection| unreadable(&rejection))?;
    let followed = match email.trim().parse::<Email>() {
        Ok(email) => invite_links::follow(&app, &client, &token, &email).await,
        Err(error) => Err(invalid("email address", &error)),
    };
    match followed {
        Ok(()) => {
            let done = message(
                "Check your email",
                "We have sent you an invitation. Follow its link to join. You can close this page.",
            )?;
            Ok(done.into_response())
        }
        // Shows the form again, with the error.
        Err(problem) if problem.status() == StatusCode::UNPROCESSABLE_ENTITY => {
            let refusal = problem.explanation();
            Ok((problem.status(), join_form(&app, &client, &token, Some(&refusal)).await?)
                .into_response())
        }
        Err(problem) => Err(problem),
    }
}

fn invalid(field: &str, reason: &impl Display) -> Problem {
    Problem::fields(vec![FieldError::invalid(field, reason)])
}

async fn reset_password(
    State(app): State<App>,
    client: Client,
    form: Result<Form<NewPassword>, FormRejection>,
) -> Result<Response, Problem> {
    let Form(NewPassword { token, password }) = form.map_err(|rejection| unreadable(&rejection))?;
    let set = match Password::chosen(password) {
        Ok(password) => passwords::set_by_link(&app, &client, &token, password).await,
        Err(refusal) => Err(Problem::too_weak("password", &refusal)),
    };
    match set {
        Ok(()) => {
            let done = message(
                "Your password has changed",
                "You have been signed out everywhere. Sign in with your new password. You can close this page.",
            )?;
            Ok(done.into_response())
        }
        // Shows the form again, with the error.
        Err(problem)
            if problem.status() == StatusCode::UNPROCESSABLE_ENTITY
                && token.len() <= TOKEN_BYTES_MAX =>
        {
            Ok((problem.status(), reset_form(&token, Some(&problem.explanation()))?)
                .into_response())
        }
        Err(problem) => Err(problem),
    }
}

async fn forgot_password(
    State(app): State<App>,
    client: Client,
    form: Result<Form<Whose>, FormRejection>,
) -> Result<Html<String>, Problem> {
    let Form(Whose { email }) = form.map_err(|rejection| unreadable(&rejection))?;
    let email = email.trim().parse::<Email>().map_err(|error| invalid("email address", &error))?;
    passwords::request(&app, &client, &email).await?;
    message(
        "Check your email",
        "If this email address has an account, we have sent you a link to reset your password. You can close this page.",
    )
}

fn unreadable(rejection: &FormRejection) -> Problem {
    match rejection.status() {
        StatusCode::UNPROCESSABLE_ENTITY => VerifyError::TokenInvalid.into(),
        status => Problem::of_status(status),
    }
}

/// Adds the headers of a page, and shows problems as pages.
async fn as_page(mut response: Response) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let status = problem.status();
        let kept = [header::RETRY_AFTER, header::CONNECTION]
            .map(|name| (response.headers_mut().remove(&name), name));
        response = match message(problem.title(), &problem.explanation()) {
            Ok(page) => (status, page).into_response(),
            Err(problem) => problem.into_response(),
        };
        response
            .headers_mut()
            .extend(kept.into_iter().filter_map(|(value, name)| Some((name, value?))));
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY.clone());
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn message(title: &str, text: &str) -> Result<Html<String>, Problem> {
    page("message.html", context! { title, text, style => STYLE })
}

fn page(name: &str, values: minijinja::Value) -> Result<Html<String>, Problem> {
    let rendered = PAGES.get_template(name).and_then(|template| template.render(values));
    rendered.map(Html).map_err(|error| Problem::internal(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_token_is_escaped() {
        let values = context! { token => "\"><script>alert(1)</script>", style => STYLE };
        let Ok(Html(html)) = page("verify_email.html", values) else { panic!("the page renders") };
        assert!(!html.contains("<script"), "{html}");
    }
}
