//! Inviting those who follow invite links.

use std::sync::Arc;

use common::{email::Email, invitations::InviteError, telemetry::metrics, tenants::Tenant, users::User};
use jobs::{
    JobError, Running,
    invite_links::{Followed, InviteByLink, InviteFollower},
};
use serde_json::json;

use super::scope;
use crate::{app::App, templates::ALREADY_MEMBER};

/// Invites whoever followed an invite link; a member is told that they are one. Whom the tenant does not invite is told
/// nothing: somebody else may have given their address.
pub(crate) async fn invite_by_link(job: InviteByLink, running: Running<App>) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let email = job.address.open(&app.key).map_err(JobError::fail)?;
    let invite = InviteFollower { key: &app.key, scope: scope(&running)?, link: job.link, email: &email, conditions: app.invitations };
    let outcome = match app.jobs.commit(&invite).await {
        Ok(Followed::Invited) => "invited",
        Ok(Followed::InvitedBefore) => "invited_before",
        Ok(Followed::LinkGone) => "link_gone",
        Err(InviteError::AlreadyMember) => {
            tell_member(&app, &running, &email).await?;
            "already_member"
        }
        Err(InviteError::Db(error)) => return Err(error.into()),
        Err(refusal) => {
            tracing::info!(link = %job.link, %refusal, "invite_link_refused");
            "refused"
        }
    };
    metrics::INVITE_LINKS_FOLLOWED.with_label_values(&[outcome]).inc();
    Ok(())
}

async fn tell_member(app: &App, running: &Running<App>, email: &Email) -> Result<(), JobError> {
    let (tenant, user) = (Tenant::of(&app.store, scope(running)?).await?, User::by_email(&app.store, email).await?);
    let (Some(tenant), Some(user)) = (tenant, user) else { return Ok(()) };
    let values = json!({ "name": user.name, "tenant": tenant.name });
    app.send(running.id, &user.email, &user.name, &ALREADY_MEMBER, &values).await
}
