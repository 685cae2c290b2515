//! Invitations of people who follow invite links.

use std::sync::Arc;

use common::{email::Email, telemetry::metrics};
use domain::{
    people::users::User,
    tenancy::{
        invitations::{Answered, InviteError},
        invite_links::{InviteByLink, InviteFollower},
        tenants::Tenant,
    },
};
use jobs::{Job, JobError, Running};
use serde_json::json;

use crate::{app::App, templates::ALREADY_MEMBER};

/// Invites a person who followed an invite link; an existing member is notified that they are one.
/// People whom the tenant does not invite receive nothing, because someone else may have entered
/// their email address.
pub(crate) async fn invite_by_link(
    job: InviteByLink,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let email = job.address.open(&app.key, InviteByLink::KIND).map_err(JobError::fail)?;
    let invite = InviteFollower {
        key: &app.key,
        scope: running.scope()?,
        link: job.link,
        email: &email,
        conditions: app.invitations(),
    };
    let outcome = match app.jobs.commit(&running.origin(), &invite).await {
        Err(InviteError::AlreadyMember) => {
            notify_member(&app, &running, &email).await?;
            "already_member"
        }
        answered => outcome(answered, "link_gone")?,
    };
    metrics::INVITE_LINKS_FOLLOWED.with_label_values(&[outcome]).inc();
    Ok(())
}

/// The outcome of a request for an invitation; `gone` if the link or domain no longer exists.
pub(super) fn outcome(
    answered: Result<Option<Answered>, InviteError>,
    gone: &'static str,
) -> Result<&'static str, JobError> {
    match answered {
        Ok(Some(Answered::Invited)) => Ok("invited"),
        Ok(Some(Answered::InvitedBefore)) => Ok("invited_before"),
        Ok(Some(Answered::Refused)) => Ok("refused"),
        Ok(None) => Ok(gone),
        Err(InviteError::AlreadyMember) => Ok("already_member"),
        Err(InviteError::Db(error)) => Err(error.into()),
        Err(refusal) => {
            tracing::info!(%refusal, "invitation_request_refused");
            Ok("refused")
        }
    }
}

async fn notify_member(app: &App, running: &Running<App>, email: &Email) -> Result<(), JobError> {
    let (tenant, user) =
        (Tenant::of(&app.store, running.scope()?).await?, User::by_email(&app.store, email).await?);
    let (Some(tenant), Some(user)) = (tenant, user) else { return Ok(()) };
    let values = json!({ "name": user.name, "tenant": tenant.name });
    app.send(running, &user.email, &user.name, &ALREADY_MEMBER, &values).await
}
