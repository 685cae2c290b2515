//! Jobs of invitations, and the changes that stage them.

use std::time::Duration;

use common::{
    clock::{between, later},
    crypto::MasterKey,
    db::{Change, DbError, TenantScope, Txn},
    email::Email,
    id::{InvitationId, InvitationLinkId, InvitationListId},
};
use jobs::{
    Job, Queue,
    batches::{BatchError, NewBatch},
    stage, stage_at,
};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

use crate::{
    identity::actor::Actor,
    tenancy::{
        invitation_lists::{CHUNK_LINES, InvitationList, Line},
        invitations::{Invitation, InviteError, Inviting, Request, Terms},
        roles::RoleRef,
    },
};

/// Mails the invited person the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendInvitation {
    /// The invitation.
    pub invitation: InvitationId,
    /// The link; one that was replaced meanwhile is not mailed.
    pub link: InvitationLinkId,
}

impl Job for SendInvitation {
    const KIND: &'static str = "invitation.send";
    const QUEUE: Queue = Queue::Email;
}

/// Reminds the invited person before the link expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendInvitationReminder {
    /// The invitation.
    pub invitation: InvitationId,
    /// The link; nobody is reminded of one that was used or replaced.
    pub link: InvitationLinkId,
}

impl Job for SendInvitationReminder {
    const KIND: &'static str = "invitation.remind";
    const QUEUE: Queue = Queue::Email;
}

/// Invites some of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteChunk {
    /// The list.
    pub list: InvitationListId,
    /// Its first line.
    pub from: usize,
}

impl Job for InviteChunk {
    const KIND: &'static str = "invitation_list.invite_chunk";
    const QUEUE: Queue = Queue::Email;
}

/// Notes that a list is done with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompleteInvitationList {
    /// The list.
    pub list: InvitationListId,
}

impl Job for CompleteInvitationList {
    const KIND: &'static str = "invitation_list.complete";
    const QUEUE: Queue = Queue::Email;
}

/// On which terms a tenant invites, and when the invited are reminded.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// The terms.
    pub terms: Terms,
    /// How long before an invitation expires its person is reminded.
    pub reminder: Duration,
}

/// Invites somebody.
pub struct Invite<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// Who invites.
    pub actor: Actor,
    /// Whom.
    pub email: Email,
    /// As what.
    pub role: RoleRef,
    /// How.
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

/// Sends an invitation again, under another link.
pub struct Resend<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// Who asks.
    pub actor: Actor,
    /// Which.
    pub invitation: InvitationId,
    /// How.
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

/// What became of somebody who asked to be invited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// They are invited.
    Invited,
    /// They had been invited before, and are mailed that link again.
    InvitedBefore,
    /// They are not: they were a member once, or the tenant is suspended.
    Refused,
}

/// Invites an address that asks for it, on the word of `actor`, and stages the mail.
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

/// Stages the mail with the link, and the one that reminds of it.
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

/// When to remind of what is good from `sent_at` to `expires_at`; not at all when that would be at
/// once.
fn reminder_at(sent_at: DateTime, expires_at: DateTime, reminder: Duration) -> Option<DateTime> {
    let wait = between(sent_at, expires_at).checked_sub(reminder)?;
    (!wait.is_zero()).then(|| later(sent_at, wait))
}

/// Somebody gives a list of people to invite.
#[derive(Debug)]
pub struct InviteList {
    /// Who.
    pub actor: Actor,
    /// Whom.
    pub lines: Vec<Line>,
}

impl Change for InviteList {
    type Output = InvitationList;
    type Error = BatchError;

    async fn apply(&self, txn: &mut Txn) -> Result<InvitationList, BatchError> {
        let list = InvitationList::create(txn, self.actor, &self.lines).await?;
        let mut batch = NewBatch::new(txn.clock(), Some(list.tenant_id));
        for from in (0..list.lines.len()).step_by(CHUNK_LINES) {
            batch.add(&InviteChunk { list: list.id, from })?;
        }
        batch.stage(txn, &CompleteInvitationList { list: list.id }).await?;
        Ok(list)
    }
}

/// Invites some of a list; lines that were invited already are left alone.
pub struct InviteSome<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// The tenant whose list it is.
    pub scope: TenantScope,
    /// Which.
    pub chunk: InviteChunk,
    /// How.
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

/// Notes that a list is done with.
#[derive(Debug, Clone, Copy)]
pub struct CompleteList {
    /// The tenant whose list it is.
    pub scope: TenantScope,
    /// Which.
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
    fn whoever_is_invited_for_long_is_reminded_in_time() {
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
