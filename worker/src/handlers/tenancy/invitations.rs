//! Mails of invitations, and lists of people to invite.

use std::sync::Arc;

use common::{
    clock::between,
    id::{InvitationId, InvitationLinkId},
    mail::Template,
};
use domain::tenancy::{
    invitations::{
        CompleteInvitationList, CompleteList, Invitation, InviteChunk, InviteSome, PrepareReminder,
        Reminding, SendInvitation, SendInvitationReminder,
    },
    tenants::Tenant,
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

/// Reminds the invited person, unless the invitation is no longer pending or the tenant's mail
/// budget is exhausted.
pub(crate) async fn send_reminder(
    job: SendInvitationReminder,
    running: Running<App>,
) -> Result<(), JobError> {
    let SendInvitationReminder { invitation, link } = job;
    let (scope, budget) = (running.scope()?, running.app.mail_budget);
    let prepare = PrepareReminder { scope, invitation, link, budget };
    match running.app.jobs.commit(&running.origin(), &prepare).await? {
        Reminding::Granted => mail(&running, invitation, link, &INVITATION_REMINDER).await,
        Reminding::NotPending => {
            tracing::info!("invitation_not_found");
            Ok(())
        }
        Reminding::BudgetSpent => {
            tracing::info!("mail_budget_exhausted");
            Ok(())
        }
    }
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
    let (tenant, inviter) =
        (Tenant::of(&app.store, scope).await?, invitation.inviter(&app.store).await?);
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
        // For the subject, which contains no text that the inviter chose.
        "app": app.settings.name,
        "inviter": inviter.name,
        "tenant": tenant.name,
        "role": given.name,
        "link": format!("{}/invitations/accept?token={}", app.settings.public_url, invitation.link_token(&app.key).link_text()),
        // Rounding up would promise too much time, and zero hours would read like "never".
        "hours": (left.as_secs() / 3600).max(1),
    });
    app.send(running, &invitation.email, "", template, &values).await
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

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test stands in for the job engine")]
mod tests {
    use std::time::Duration;

    use common::{
        clock::Clock,
        config::MailBudget,
        db::{Change, DbError, TenantScope, Txn},
        origin::Origin,
    };
    use domain::{
        people::users::User,
        tenancy::{
            actor::Actor,
            invitations::{CancelInvitation, Conditions, Invite, Resend, Terms},
            memberships::Membership,
            roles::Role,
        },
    };
    use mongodb::bson::DateTime;

    use super::*;
    use crate::testing::DemoWorld;

    const WEEK: Duration = Duration::from_hours(7 * 24);
    const MINUTE: Duration = Duration::from_mins(1);
    const BUDGET: MailBudget =
        MailBudget { new_tenant: 100, per_day: 0, per_accepted: 0, max: 100 };
    const CONDITIONS: Conditions =
        Conditions { terms: Terms { ttl: WEEK, max: 10, budget: BUDGET }, reminder: WEEK };

    /// The demo user founds another tenant.
    struct Found<'a>(&'a User);

    impl Change for Found<'_> {
        type Output = Actor;
        type Error = DbError;

        async fn apply(&self, txn: &mut Txn) -> Result<Actor, DbError> {
            let tenant = Tenant::create(txn, &"Another".parse().unwrap(), None).await?;
            let scope = TenantScope::of_row(&tenant);
            Membership::create(txn, scope, self.0.id, Role::Owner).await?;
            Ok(Actor::on_behalf_of(scope, self.0.id.into()))
        }
    }

    /// The mails are delayed, so that strangers can neither flood an address nor keep others from
    /// reaching it.
    #[tokio::test]
    async fn invitations_to_one_address_are_a_cooldown_apart_over_all_tenants() {
        let world = DemoWorld::new(Clock::manual(DateTime::now())).await;
        let (key, clock) = (&world.key, world.store.clock());
        let commit = async |actor: Actor, email: &str| {
            let (email, role) = (email.parse().unwrap(), Role::Viewer.into());
            let invite = Invite { key, actor, email, role, conditions: CONDITIONS };
            world.jobs.commit(&Origin::system(), &invite).await.unwrap()
        };
        let scope = TenantScope::of_job(world.tenant);
        let ours = Actor::on_behalf_of(scope, world.user.id.into());
        let theirs = world.jobs.commit(&Origin::system(), &Found(&world.user)).await.unwrap();
        let send = async |invitation: &Invitation| {
            let job = SendInvitation { invitation: invitation.id, link: invitation.link };
            world.worker.run(Some(invitation.tenant_id), &job).await
        };
        let (first, second) = (
            commit(ours, "victim@example.com").await,
            commit(theirs, "VICTIM+news@example.com").await,
        );
        send(&first).await.unwrap();
        clock.advance(MINUTE / 2);
        let Err(JobError::NotYet(wait, _)) = send(&second).await else { panic!("not delayed") };
        assert_eq!(wait, MINUTE / 2);
        send(&commit(ours, "another@example.com").await).await.unwrap();
        clock.advance(2 * MINUTE);
        // As a job of its own, it gets the slot after that of the delayed one.
        send(&second).await.unwrap();
        let mut to: Vec<String> =
            world.env.mail().messages().into_iter().flat_map(|mail| mail.to).collect();
        to.sort();
        assert_eq!(to, ["VICTIM+news@example.com", "another@example.com", "victim@example.com"]);

        // A new link of one invitation waits as well.
        let (invitation, actor) = (second.id, theirs);
        let resend = Resend { key, actor, invitation, conditions: CONDITIONS };
        let again = world.jobs.commit(&Origin::system(), &resend).await.unwrap();
        assert!(matches!(send(&again).await, Err(JobError::NotYet(..))));
    }

    /// Mails that are not sent, because their links are superseded, delay nobody.
    #[tokio::test]
    async fn a_tenant_that_invites_again_and_again_delays_another_by_one_mail() {
        let world = DemoWorld::new(Clock::manual(DateTime::now())).await;
        let key = &world.key;
        let origin = Origin::system();
        let invite = async |actor: Actor| {
            let (email, role) = ("victim@example.com".parse().unwrap(), Role::Viewer.into());
            let invite = Invite { key, actor, email, role, conditions: CONDITIONS };
            world.jobs.commit(&origin, &invite).await.unwrap()
        };
        let ours = Actor::on_behalf_of(TenantScope::of_job(world.tenant), world.user.id.into());
        let theirs = world.jobs.commit(&origin, &Found(&world.user)).await.unwrap();
        let send = async |invitation: &Invitation| {
            let job = SendInvitation { invitation: invitation.id, link: invitation.link };
            world.worker.run(Some(invitation.tenant_id), &job).await
        };
        let mut invitation = invite(theirs).await;
        send(&invitation).await.unwrap();
        for _ in 0..3 {
            let (actor, id) = (theirs, invitation.id);
            let resend = Resend { key, actor, invitation: id, conditions: CONDITIONS };
            let again = world.jobs.commit(&origin, &resend).await.unwrap();
            assert!(matches!(send(&again).await, Err(JobError::NotYet(..))));
            let cancel = CancelInvitation { actor, invitation: id };
            world.jobs.commit(&origin, &cancel).await.unwrap();
            invitation = invite(theirs).await;
            assert!(matches!(send(&invitation).await, Err(JobError::NotYet(..))));
        }
        let Err(JobError::NotYet(wait, _)) = send(&invite(ours).await).await else {
            panic!("not delayed")
        };
        assert_eq!(wait, 2 * MINUTE, "after the mail that was sent, and one that waits");
        // What waits can still be sent, in its turn.
        world.store.clock().advance(3 * MINUTE);
        send(&invitation).await.unwrap();
    }
}
