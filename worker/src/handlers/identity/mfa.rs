//! Mails about second factors.

use std::sync::Arc;

use domain::{
    identity::mfa::{MfaChange, SendMfaChanged, challenges::SendCodesThrottled},
    people::users::User,
};
use jobs::{JobError, Running};
use serde_json::json;

use crate::{
    app::App,
    templates::{CODES_THROTTLED, MFA_CHANGED},
};

/// Notifies a user that their second factors changed.
pub(crate) async fn send_changed(
    job: SendMfaChanged,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some(user) = User::by_id(&app.store, job.user).await? else {
        tracing::info!("user_not_found");
        return Ok(());
    };
    let values = json!({ "name": user.name, "change": description(job.change), "by_operator": job.change == MfaChange::Reset, "link": app.forgot_password_page() });
    app.send(&running, &user.email, &user.name, &MFA_CHANGED, &values).await
}

/// Notifies a user that a person who knows their password tries to guess a code.
pub(crate) async fn send_throttled(
    job: SendCodesThrottled,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some(user) = User::by_id(&app.store, job.user).await? else {
        tracing::info!("user_not_found");
        return Ok(());
    };
    let minutes = app.auth.throttle_window.as_secs().div_ceil(60);
    let values =
        json!({ "name": user.name, "minutes": minutes, "link": app.forgot_password_page() });
    app.send(&running, &user.email, &user.name, &CODES_THROTTLED, &values).await
}

/// What happened, in whole sentences.
pub(crate) const fn description(change: MfaChange) -> &'static str {
    match change {
        MfaChange::TotpAdded => {
            "An authenticator app was added to your account. You need one of its codes when you sign in."
        }
        MfaChange::TotpRemoved => "The authenticator app was removed from your account.",
        MfaChange::PasskeyAdded => "A passkey was added to your account.",
        MfaChange::PasskeyRemoved => "A passkey was removed from your account.",
        MfaChange::RecoveryCodesReplaced => {
            "New recovery codes were created for your account. The previous codes no longer work."
        }
        MfaChange::RecoveryCodeUsed => {
            "One of your recovery codes was used to sign in to your account. It cannot be used again."
        }
        MfaChange::Reset => {
            "An operator removed all second factors from your account and signed you out everywhere."
        }
    }
}
