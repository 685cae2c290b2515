//! Jobs of invite links, and the changes that stage them.

use common::{
    addressee::Addressee,
    crypto::MasterKey,
    db::{Change, DbError, TenantScope, Txn},
    email::Email,
    id::{InviteLinkId, TenantId},
    invitations::{InviteError, Inviting},
    invite_links::InviteLink,
};
use serde::{Deserialize, Serialize};

use crate::{
    Job, Queue,
    invitations::{Conditions, SendInvitation, stage_mails},
    stage,
};

/// Invites whoever followed an invite link. Staged whether or not they are a member or invited already, so that following
/// one with another's address tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteByLink {
    /// The link.
    pub link: InviteLinkId,
    /// The address they gave.
    pub address: Addressee,
}

impl Job for InviteByLink {
    const KIND: &'static str = "invite_link.invite";
    const QUEUE: Queue = Queue::Email;
}

/// Somebody follows an invite link.
pub struct FollowInviteLink {
    /// The tenant whose link it is.
    pub tenant: TenantId,
    /// Which.
    pub link: InviteLinkId,
    /// The address they give.
    pub address: Addressee,
}

impl Change for FollowInviteLink {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        let job = InviteByLink { link: self.link, address: self.address.clone() };
        stage(txn, Some(self.tenant), &job).await.map(drop)
    }
}

/// Invites somebody who followed an invite link, on the word of whoever made it.
pub struct InviteFollower<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// The tenant whose link it is.
    pub scope: TenantScope,
    /// Which.
    pub link: InviteLinkId,
    /// The address they gave.
    pub email: &'a Email,
    /// How.
    pub conditions: Conditions,
}

/// What became of somebody who followed an invite link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// They are invited.
    Invited,
    /// They had been invited before, by whomever and as whatever, and are mailed that link again.
    InvitedBefore,
    /// The link was deleted or has expired.
    LinkGone,
}

impl Change for InviteFollower<'_> {
    type Output = Followed;
    type Error = InviteError;

    async fn apply(&self, txn: &mut Txn) -> Result<Followed, InviteError> {
        let Some(link) = InviteLink::within(txn, self.scope, self.link).await? else { return Ok(Followed::LinkGone) };
        if !link.is_for(self.email) {
            return Err(InviteError::DomainNotAllowed);
        }
        let inviting = Inviting::begin(txn, self.key, link.actor(), self.conditions.terms).await?;
        // Nobody changes by a link what somebody was invited to, nor voids what they were mailed.
        if let Some(before) = inviting.waiting(txn, self.email).await? {
            stage(txn, Some(before.tenant_id), &SendInvitation { invitation: before.id, link: before.link }).await?;
            return Ok(Followed::InvitedBefore);
        }
        let invitation = inviting.invite(txn, self.email, link.role).await?;
        stage_mails(txn, &invitation, self.conditions.reminder).await?;
        Ok(Followed::Invited)
    }
}
