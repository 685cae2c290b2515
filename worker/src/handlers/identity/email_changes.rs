//! Mails about changes of an account's email address.

use std::sync::Arc;

use domain::{
    identity::email_changes::{
        EmailChange, SendEmailChangeLink, SendEmailChanged, SendEmailTaken, Side,
    },
    people::users::User,
};
use jobs::{Job, JobError, Running};
use serde_json::json;

use crate::{
    app::App,
    templates::{EMAIL_CHANGE_NEW, EMAIL_CHANGE_OLD, EMAIL_CHANGED, EMAIL_TAKEN},
};

/// Mails one of the two links. If the new email address already has an account, its owner is
/// notified instead.
pub(crate) async fn send_link(
    job: SendEmailChangeLink,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some(change) = EmailChange::pending(&app.store, job.change).await? else {
        tracing::info!("email_change_not_found");
        return Ok(());
    };
    let Some(user) = User::by_id(&app.store, change.user_id).await? else {
        tracing::info!("user_not_found");
        return Ok(());
    };
    if job.side == Side::New
        && let Some(owner) = User::by_email(&app.store, &change.new.email).await?
    {
        return notify_owner(&app, &running, &owner).await;
    }
    let (to, template) = match job.side {
        Side::Old => (&change.old.email, &EMAIL_CHANGE_OLD),
        Side::New => (&change.new.email, &EMAIL_CHANGE_NEW),
    };
    let values = json!({
        "name": user.name,
        "email": change.new.email,
        "link": format!("{}/change-email?token={}", app.settings.public_url, change.link_token(&app.key, job.side).link_text()),
        "hours": app.auth.email_change_ttl.as_secs() / 3600,
    });
    app.send(&running, to, &user.name, template, &values).await
}

/// Notifies a user that someone tried to use their email address for another account.
pub(crate) async fn send_taken(job: SendEmailTaken, running: Running<App>) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some(owner) = User::by_id(&app.store, job.owner).await? else {
        tracing::info!("user_not_found");
        return Ok(());
    };
    notify_owner(&app, &running, &owner).await
}

async fn notify_owner(app: &App, running: &Running<App>, owner: &User) -> Result<(), JobError> {
    app.send(running, &owner.email, &owner.name, &EMAIL_TAKEN, &json!({ "name": owner.name })).await
}

/// Notifies a user, at the old or the new email address, that it was changed.
pub(crate) async fn send_changed(
    job: SendEmailChanged,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let to = job.to.open(&app.key, SendEmailChanged::KIND).map_err(JobError::fail)?;
    let Some(user) = User::by_id(&app.store, job.user).await? else {
        tracing::info!("user_not_found");
        return Ok(());
    };
    let values = json!({ "name": user.name, "is_old": job.side == Side::Old, "link": app.settings.public_url });
    app.send(&running, &to, &user.name, &EMAIL_CHANGED, &values).await
}
