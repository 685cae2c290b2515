//! Mails about second factors.

use std::sync::Arc;

use domain::identity::{
    mfa::{MfaChange, SendMfaChanged},
    users::User,
};
use jobs::{JobError, Running};
use serde_json::json;

use crate::{app::App, templates::MFA_CHANGED};

/// Tells a person that their second factors changed.
pub(crate) async fn send_changed(
    job: SendMfaChanged,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some(user) = User::by_id(&app.store, job.user).await? else {
        tracing::info!("user_gone");
        return Ok(());
    };
    let values = json!({ "name": user.name, "change": told(job.change), "by_operator": job.change == MfaChange::Reset, "link": app.forgot_password_page() });
    app.send(running.id, &user.email, &user.name, &MFA_CHANGED, &values).await
}

/// What happened, as the middle of a sentence.
pub(crate) const fn told(change: MfaChange) -> &'static str {
    match change {
        MfaChange::TotpAdded => {
            "an authenticator app was added to your account, and its codes are asked for from now on"
        }
        MfaChange::TotpRemoved => "the authenticator app was removed from your account",
        MfaChange::PasskeyAdded => "a passkey was added to your account",
        MfaChange::PasskeyRemoved => "a passkey was removed from your account",
        MfaChange::RecoveryCodesReplaced => {
            "new recovery codes were made for your account, and the ones before are void"
        }
        MfaChange::RecoveryCodeUsed => {
            "one of your recovery codes was used to sign in to your account, and is void now"
        }
        MfaChange::Reset => {
            "an operator removed all second factors from your account, and you were signed out everywhere"
        }
    }
}
