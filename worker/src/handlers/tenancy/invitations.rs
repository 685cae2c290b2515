//! Mails of invitations, and lists of people to invite.

use std::sync::Arc;

use common::{
    clock::between,
    id::{InvitationId, InvitationLinkId},
    mail::Template,
};
use domain::{
    people::users::User,
    tenancy::{
        invitations::{
            CompleteInvitationList, CompleteList, Invitation, InviteChunk, InviteSome,
            SendInvitation, SendInvitationReminder,
        },
        tenants::Tenant,
    },
};
use jobs::{JobError, Running};
use serde_json::json;

use crate::{
    app::App,
    templates::{INVITATION, INVITATION_REMINDER},
};

/// Mails the invitation link to the invited person.
pub(crate) async fn send_invitation(
    job: SendInvitation,
    running: Running<App>,
) -> Result<(), JobError> {
    mail(&running, job.invitation, job.link, &INVITATION).await
}

/// Reminds the invited person, unless the invitation is no longer pending.
pub(crate) async fn send_reminder(
    job: SendInvitationReminder,
    running: Running<App>,
) -> Result<(), JobError> {
    mail(&running, job.invitation, job.link, &INVITATION_REMINDER).await
}

async fn mail(
    running: &Running<App>,
    invitation: InvitationId,
    link: InvitationLinkId,
    template: &Template,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let scope = running.scope()?;
    let Some(invitation) = Invitation::under_link(&app.store, scope, invitation, link).await?
    else {
        tracing::info!("invitation_not_found");
        return Ok(());
    };
    let (tenant, inviter) = (
        Tenant::of(&app.store, scope).await?,
        User::of_principal(&app.store, invitation.invited_by).await?,
    );
    let (Some(tenant), Some(inviter), Some(given)) =
        (tenant, inviter, invitation.grant(&app.store).await?)
    else {
        tracing::info!("invitation_no_longer_pending");
        return Ok(());
    };
    if !tenant.security.allowed_email_domains.admit(&invitation.email) {
        tracing::info!("invitation_refused_by_domain");
        return Ok(());
    }
    let left = between(app.store.clock().now(), invitation.expires_at);
    let values = json!({
        "inviter": inviter.name,
        "tenant": tenant.name,
        "role": given.name,
        "link": format!("{}/invitations/accept?token={}", app.settings.public_url, invitation.link_token(&app.key).link_text()),
        // Rounding up would promise too much time, and zero hours would read like "never".
        "hours": (left.as_secs() / 3600).max(1),
    });
    app.send(running.id, &invitation.email, "", template, &values).await
}

/// Invites a part of a list.
pub(crate) async fn invite_chunk(
    chunk: InviteChunk,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let invite =
        InviteSome { key: &app.key, scope: running.scope()?, chunk, conditions: app.invitations() };
    Ok(app.jobs.commit(&running.origin(), &invite).await?)
}

/// Marks a list as complete.
pub(crate) async fn complete_list(
    job: CompleteInvitationList,
    running: Running<App>,
) -> Result<(), JobError> {
    let complete = CompleteList { scope: running.scope()?, list: job.list };
    Ok(running.app.jobs.commit(&running.origin(), &complete).await?)
}
