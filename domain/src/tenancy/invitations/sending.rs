//! Jobs of invitations, and the changes that stage them.

use std::time::Duration;

use common::{
    clock::{between, later},
    config,
    crypto::MasterKey,
    db::{Change, DbError, TenantScope, Txn},
    email::Email,
    id::{InvitationId, InvitationLinkId, InvitationListId},
};
use jobs::{Job, Queue, batches::NewBatch, stage, stage_at};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

use crate::{
    queues,
    tenancy::{
        actor::Actor,
        invitation_lists::{CHUNK_LINES, InvitationList, Line, ListError, ListLimits},
        invitations::{Invitation, InviteError, Inviting, Request, Terms},
        mail_budget::{MailBudget, Spent, Wanted},
        roles::{Grant, OutOfReach, RoleRef},
        tenants::Tenant,
    },
};

/// Mails the invitation link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendInvitation {
    pub invitation: InvitationId,
    /// The link; one that was replaced in the meantime is not mailed.
    pub link: InvitationLinkId,
}

impl Job for SendInvitation {
    const KIND: &'static str = "invitation.send";
    const QUEUE: Queue = queues::EMAIL;
}

/// Reminds the invited person before the link expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendInvitationReminder {
    pub invitation: InvitationId,
    /// The link; no reminder is sent for one that was used or replaced.
    pub link: InvitationLinkId,
}

impl Job for SendInvitationReminder {
    const KIND: &'static str = "invitation.remind";
    const QUEUE: Queue = queues::EMAIL;
}

/// Invites a part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteChunk {
    pub list: InvitationListId,
    /// Number of its first line.
    pub from: usize,
}

impl Job for InviteChunk {
    const KIND: &'static str = "invitation_list.invite_chunk";
    const QUEUE: Queue = queues::EMAIL;
}

/// Marks a list as complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompleteInvitationList {
    pub list: InvitationListId,
}

impl Job for CompleteInvitationList {
    const KIND: &'static str = "invitation_list.complete";
    const QUEUE: Queue = queues::EMAIL;
}

/// Limits of invitations, and when to remind the invited people.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    pub terms: Terms,
    /// How long before an invitation expires its reminder is sent.
    pub reminder: Duration,
}

/// Invites a person.
pub struct Invite<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    /// The member who invites.
    pub actor: Actor,
    /// Email address of the person.
    pub email: Email,
    /// The role they will have.
    pub role: RoleRef,
    pub conditions: Conditions,
}

impl Change for Invite<'_> {
    type Output = Invitation;
    type Error = InviteError;

    async fn apply(&self, txn: &mut Txn) -> Result<Invitation, InviteError> {
        let inviting = Inviting::begin(txn, self.key, self.actor, self.conditions.terms).await?;
        let invitation = inviting.invite(txn, &self.email, self.role).await?;
        stage_mails(txn, &invitation, self.conditions.reminder).await?;
        Ok(invitation)
    }
}

/// Sends an invitation again, with a new link.
pub struct Resend<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    /// The caller.
    pub actor: Actor,
    pub invitation: InvitationId,
    pub conditions: Conditions,
}

impl Change for Resend<'_> {
    type Output = Invitation;
    type Error = InviteError;

    async fn apply(&self, txn: &mut Txn) -> Result<Invitation, InviteError> {
        let inviting = Inviting::begin(txn, self.key, self.actor, self.conditions.terms).await?;
        let invitation = inviting.resend(txn, self.invitation).await?;
        stage_mails(txn, &invitation, self.conditions.reminder).await?;
        Ok(invitation)
    }
}

/// Result of a request for an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// The person was invited.
    Invited,
    /// They had already been invited, and the link is mailed again.
    InvitedBefore,
    /// They were not invited: they are a former member, or the tenant is suspended.
    Refused,
}

/// Invites an email address on its own request, on behalf of `actor`, and stages the mail.
pub(crate) async fn invite_on_request(
    txn: &mut Txn,
    key: &MasterKey,
    actor: Actor,
    email: &Email,
    role: RoleRef,
    conditions: Conditions,
) -> Result<Answered, InviteError> {
    let inviting = Inviting::begin(txn, key, actor, conditions.terms).await?;
    match inviting.invite_on_request(txn, email, role).await? {
        Request::Granted(invitation) => {
            stage_mails(txn, &invitation, conditions.reminder).await?;
            Ok(Answered::Invited)
        }
        Request::GrantedBefore(before) => {
            stage(
                txn,
                Some(before.tenant_id),
                &SendInvitation { invitation: before.id, link: before.link },
            )
            .await?;
            Ok(Answered::InvitedBefore)
        }
        Request::FormerMember | Request::TenantSuspended => Ok(Answered::Refused),
    }
}

/// Stages the mail with the link, and its reminder.
async fn stage_mails(
    txn: &mut Txn,
    invitation: &Invitation,
    reminder: Duration,
) -> Result<(), DbError> {
    let (tenant, id, link) = (Some(invitation.tenant_id), invitation.id, invitation.link);
    stage(txn, tenant, &SendInvitation { invitation: id, link }).await?;
    if let Some(due) = reminder_at(invitation.sent_at, invitation.expires_at, reminder) {
        stage_at(txn, tenant, &SendInvitationReminder { invitation: id, link }, due).await?;
    }
    Ok(())
}

/// When to send the reminder for a link valid from `sent_at` to `expires_at`; none if that would be
/// immediately.
fn reminder_at(sent_at: DateTime, expires_at: DateTime, reminder: Duration) -> Option<DateTime> {
    let wait = between(sent_at, expires_at).checked_sub(reminder)?;
    (!wait.is_zero()).then(|| later(sent_at, wait))
}

/// Result of the preparation of a reminder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reminding {
    /// It may be sent.
    Granted,
    /// The invitation is no longer pending.
    NotPending,
    /// The tenant has sent as many mails today as it may.
    BudgetSpent,
}

/// Counts the mail of a reminder towards the tenant's mail budget: once per link, however often the
/// job runs.
#[derive(Debug, Clone, Copy)]
pub struct PrepareReminder {
    /// The tenant of the invitation.
    pub scope: TenantScope,
    pub invitation: InvitationId,
    pub link: InvitationLinkId,
    pub budget: config::MailBudget,
}

impl Change for PrepareReminder {
    type Output = Reminding;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<Reminding, DbError> {
        let Self { scope, invitation, link, budget } = *self;
        let tenant = Tenant::lock(txn, scope).await?;
        let reminded = Invitation::note_reminder(txn, scope, invitation, link).await?;
        let (Some(tenant), Some(is_first)) = (tenant, reminded) else {
            return Ok(Reminding::NotPending);
        };
        if is_first && MailBudget::spend(txn, &tenant, Wanted::Reminder, &budget).await?.is_err() {
            return Ok(Reminding::BudgetSpent);
        }
        Ok(Reminding::Granted)
    }
}

/// Submits a list of people to invite.
#[derive(Debug)]
pub struct InviteList {
    /// The member who invites.
    pub actor: Actor,
    /// The people to invite.
    pub lines: Vec<Line>,
    pub limits: ListLimits,
    /// Mails a day that the tenant may send to people who are not its members.
    pub budget: config::MailBudget,
}

impl Change for InviteList {
    type Output = InvitationList;
    type Error = ListError;

    async fn apply(&self, txn: &mut Txn) -> Result<InvitationList, ListError> {
        let tenant = Tenant::lock(txn, self.actor.scope).await?;
        // The lines are invited later, on behalf of the caller, without their session.
        let authority = self.actor.authority(txn).await?;
        let roles = self.lines.iter().filter_map(|line| line.role.parse().ok());
        for role in Grant::all_within(txn, self.actor.scope, roles).await? {
            if let Err(refusal @ OutOfReach::NotRecent) = authority.may_give(&role) {
                return Err(refusal.into());
            }
        }
        if let Some(tenant) = tenant {
            let left = MailBudget::check(txn, &tenant, Wanted::ByMember, &self.budget).await?;
            left.map_err(|Spent(wait)| ListError::BudgetSpent(wait))?;
        }
        let list = InvitationList::create(txn, self.actor, &self.lines, self.limits).await?;
        let mut batch = NewBatch::new(txn.clock(), Some(list.tenant_id));
        for from in list.chunks_to_invite() {
            batch.add(&InviteChunk { list: list.id, from })?;
        }
        batch.stage(txn, &CompleteInvitationList { list: list.id }).await?;
        Ok(list)
    }
}

/// Invites a part of a list; lines that are already processed are skipped.
pub struct InviteSome<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    /// The tenant of the list.
    pub scope: TenantScope,
    pub chunk: InviteChunk,
    pub conditions: Conditions,
}

impl Change for InviteSome<'_> {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        let InviteChunk { list, from } = self.chunk;
        let Some(list) = InvitationList::within(txn, self.scope, list).await? else {
            return Ok(());
        };
        let inviting = Inviting::begin(txn, self.key, list.actor(), self.conditions.terms).await?;
        for invitation in list.invite(txn, &inviting, from..from + CHUNK_LINES).await? {
            stage_mails(txn, &invitation, self.conditions.reminder).await?;
        }
        Ok(())
    }
}

/// Marks a list as complete.
#[derive(Debug, Clone, Copy)]
pub struct CompleteList {
    /// The tenant of the list.
    pub scope: TenantScope,
    pub list: InvitationListId,
}

impl Change for CompleteList {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        match InvitationList::within(txn, self.scope, self.list).await? {
            Some(list) => list.complete(txn).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_invitations_have_a_reminder() {
        let at = |sent, expires, reminder| {
            let due = reminder_at(
                DateTime::from_millis(sent),
                DateTime::from_millis(expires),
                Duration::from_millis(reminder),
            );
            due.map(DateTime::timestamp_millis)
        };
        assert_eq!(
            [at(0, 10, 3), at(5, 10, 4), at(0, 10, 10), at(0, 10, 11)],
            [Some(7), Some(6), None, None]
        );
    }
}
