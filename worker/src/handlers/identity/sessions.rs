//! Mails about sessions.

use std::sync::Arc;

use common::{clock::rfc3339, id::SessionId};
use domain::{
    access::throttle::FAMILIAR_FOR,
    identity::{
        refresh::SendReuseAlarm,
        sign_in::{SendNewSignIn, SendThrottled},
    },
    people::{sessions::Session, users::User},
};
use jobs::{Job, JobError, Running};
use serde_json::json;

use crate::{
    app::App,
    devices::described,
    templates::{NEW_SIGN_IN, SESSION_REUSE_ALARM, SIGN_IN_THROTTLED},
};

/// Notifies a user that one of their refresh tokens was used twice.
pub(crate) async fn send_reuse_alarm(
    job: SendReuseAlarm,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some((session, user)) = session_and_user(&app, job.session).await? else { return Ok(()) };
    let values = json!({ "name": user.name, "device": described(&session.device), "since": rfc3339(session.created_at), "link": app.forgot_password_page() });
    app.send(&running, &user.email, &user.name, &SESSION_REUSE_ALARM, &values).await
}

/// Notifies a user of a sign-in from a new device or network.
pub(crate) async fn send_new_sign_in(
    job: SendNewSignIn,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some((session, user)) = session_and_user(&app, job.session).await? else { return Ok(()) };
    let address = if session.ip.is_empty() { "unknown IP address" } else { &session.ip };
    let values = json!({
        "name": user.name,
        "device": described(&session.device),
        "address": address,
        "since": rfc3339(session.created_at),
        "link": app.forgot_password_page(),
    });
    app.send(&running, &user.email, &user.name, &NEW_SIGN_IN, &values).await
}

/// Notifies a user that someone tries to guess their password.
pub(crate) async fn send_throttled(
    job: SendThrottled,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let email = job.address.open(&app.key, SendThrottled::KIND).map_err(JobError::fail)?;
    let Some(user) = User::by_email(&app.store, &email).await? else {
        tracing::info!("account_not_found");
        return Ok(());
    };
    let values = json!({
        "name": user.name,
        "minutes": app.auth.throttle_window.as_secs().div_ceil(60),
        "days": FAMILIAR_FOR.as_secs() / 86_400,
        "link": app.forgot_password_page(),
    });
    app.send(&running, &user.email, &user.name, &SIGN_IN_THROTTLED, &values).await
}

async fn session_and_user(
    app: &App,
    session: SessionId,
) -> Result<Option<(Session, User)>, JobError> {
    let Some(session) = Session::by_id(&app.store, session).await? else {
        tracing::info!("session_not_found");
        return Ok(None);
    };
    let user = User::by_id(&app.store, session.user_id).await?;
    if user.is_none() {
        tracing::info!("user_not_found");
    }
    Ok(user.map(|user| (session, user)))
}
