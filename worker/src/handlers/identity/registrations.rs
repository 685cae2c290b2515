//! Mails of registrations. Each mail is recorded on its registration, so that repeated requests do
//! not flood a stranger's inbox.

use std::sync::Arc;

use domain::{
    identity::registrations::{Mailing, Registration, ResendVerification, SendVerification},
    people::users::User,
};
use jobs::{JobError, Running};
use serde_json::json;

use crate::{
    app::App,
    templates::{ACCOUNT_EXISTS, VERIFICATION},
};

/// Mails the verification link to a person who registered.
pub(crate) async fn send_verification(
    job: SendVerification,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some(registration) = Registration::pending(&app.store, job.registration).await? else {
        tracing::info!("registration_not_found");
        return Ok(());
    };
    let newest = Registration::newest_of(&app.store, &registration.email).await?;
    if newest.is_some_and(|newest| newest.id != registration.id) {
        tracing::info!("registration_superseded");
        return Ok(());
    }
    match registration.claim_mailing(&app.store, running.id, app.auth.resend_cooldown).await? {
        Mailing::Granted => mail(&app, &running, &registration).await,
        Mailing::Done => Ok(()),
        Mailing::NotBefore(wait) => {
            Err(JobError::RetryAfter(wait, "a mail was sent to this email address recently".into()))
        }
    }
}

/// Mails the link again, unless that happened recently or there is nothing to verify.
pub(crate) async fn resend_verification(
    job: ResendVerification,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some(registration) = Registration::newest_under(&app.store, &job.address).await? else {
        tracing::info!("no_pending_registration");
        return Ok(());
    };
    match registration.claim_mailing(&app.store, running.id, app.auth.resend_cooldown).await? {
        Mailing::Granted => mail(&app, &running, &registration).await,
        Mailing::Done => Ok(()),
        Mailing::NotBefore(_) => {
            tracing::info!("mail_recently_sent");
            Ok(())
        }
    }
}

async fn mail(
    app: &App,
    running: &Running<App>,
    registration: &Registration,
) -> Result<(), JobError> {
    if let Some(user) = User::by_email(&app.store, &registration.email).await? {
        let values = json!({ "name": user.name });
        app.send(running.id, &user.email, &user.name, &ACCOUNT_EXISTS, &values).await?;
    } else {
        let token = registration.link_token(&app.key);
        let values = json!({
            "name": registration.name,
            "tenant": registration.tenant_name,
            "link": format!("{}/verify-email?token={}", app.settings.public_url, token.link_text()),
            "contested": Registration::is_contested(&app.store, &registration.email).await?,
            "hours": app.auth.verification_ttl.as_secs() / 3600,
        });
        app.send(
            running.id,
            &registration.email,
            &registration.name.to_string(),
            &VERIFICATION,
            &values,
        )
        .await?;
    }
    Registration::mailed(&app.store, registration.id, running.id).await?;
    Ok(())
}
