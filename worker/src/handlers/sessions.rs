//! Mails about sessions.

use std::sync::Arc;

use common::{ambient::rfc3339, sessions::Session, users::User};
use jobs::{JobError, Running, sessions::SendReuseAlarm};
use serde_json::json;

use crate::{app::App, templates::REUSE_ALARM};

/// Tells the person that a refresh token of theirs was used twice.
pub(crate) async fn send_reuse_alarm(job: SendReuseAlarm, running: Running<App>) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some(session) = Session::by_id(&app.store, job.session).await? else {
        tracing::info!("session_gone");
        return Ok(());
    };
    let Some(user) = User::by_id(&app.store, session.user_id).await? else {
        tracing::info!("user_gone");
        return Ok(());
    };
    let device = if session.device.is_empty() { "unknown device" } else { &session.device };
    let values = json!({ "name": user.name, "device": device, "since": rfc3339(session.created_at) });
    app.send(running.id, &user.email, &user.name, &REUSE_ALARM, &values).await
}
