//! Mails about passwords.

use std::sync::Arc;

use common::{
    password_resets::{PasswordReset, Prepare},
    registrations::Mailing,
    users::User,
};
use jobs::{
    JobError, Running,
    passwords::{ChangedBy, SendPasswordChanged, SendPasswordReset},
};
use serde_json::json;

use crate::{
    app::App,
    templates::{PASSWORD_CHANGED, PASSWORD_RESET},
};

/// Mails a link that sets a new password, unless there is no account or that happened a moment ago.
pub(crate) async fn send_reset(job: SendPasswordReset, running: Running<App>) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let email = job.address.open(&app.key).map_err(JobError::fail)?;
    let Some(user) = User::by_email(&app.store, &email).await? else {
        tracing::info!("no_account");
        return Ok(());
    };
    let (ttl, cooldown) = (app.password_reset_ttl, app.resend_cooldown);
    let prepare = Prepare { key: &app.key, user: user.id, job: running.id, ttl, cooldown };
    let (Mailing::Granted, Some(reset)) = app.store.commit(&prepare).await? else {
        tracing::info!("mailed_a_moment_ago");
        return Ok(());
    };
    let values = json!({
        "name": user.name,
        "link": format!("{}/reset-password?token={}", app.public_url, reset.link_token(&app.key).expose()),
        "minutes": ttl.as_secs() / 60,
    });
    app.send(running.id, &user.email, &user.name, &PASSWORD_RESET, &values).await?;
    PasswordReset::mailed(&app.store, reset.id).await?;
    Ok(())
}

/// Tells a person that their password is another one now.
pub(crate) async fn send_changed(job: SendPasswordChanged, running: Running<App>) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some(user) = User::by_id(&app.store, job.user).await? else {
        tracing::info!("user_gone");
        return Ok(());
    };
    let values = json!({ "name": user.name, "by_link": job.by == ChangedBy::Reset, "link": app.public_url });
    app.send(running.id, &user.email, &user.name, &PASSWORD_CHANGED, &values).await
}
