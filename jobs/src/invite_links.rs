//! Jobs of invite links, and the changes that stage them.

use std::time::Duration;

use common::{
    addressee::Addressee,
    ambient::millis_of,
    crypto::{MasterKey, SealError},
    db::{Change, DbError, TenantScope, Txn},
    email::Email,
    id::{InviteLinkId, TenantId},
    invitations::InviteError,
    invite_links::InviteLink,
    registrations::AddressDigest,
};
use serde::{Deserialize, Serialize};

use crate::{
    Job, Queue, Unique, Window,
    invitations::{Answered, Conditions, invite_on_request},
    stage,
};

/// Invites whoever followed an invite link. Staged whether or not they are a member or invited
/// already, so that following one with another's address tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteByLink {
    /// The link.
    pub link: InviteLinkId,
    /// The address they gave.
    pub address: Addressee,
    /// Its pseudonym: for a while after it was asked for, the address is not mailed again by the
    /// tenant's links.
    pub digest: AddressDigest,
    /// For how long, in milliseconds.
    pub cooldown_ms: u64,
}

impl Job for InviteByLink {
    const KIND: &'static str = "invite_link.invite";
    const QUEUE: Queue = Queue::Email;

    fn unique(&self) -> Option<Unique> {
        Some(Unique {
            key: self.digest.as_str().to_owned(),
            window: Window::For(Duration::from_millis(self.cooldown_ms)),
        })
    }
}

/// Somebody follows an invite link.
pub struct FollowInviteLink {
    tenant: TenantId,
    job: InviteByLink,
}

impl FollowInviteLink {
    /// By `link`, with this address; asked for again within `cooldown` it is not mailed again.
    ///
    /// # Errors
    /// When the cipher refuses, which a healthy system does not do.
    pub fn new(
        key: &MasterKey,
        link: &InviteLink,
        email: &Email,
        cooldown: Duration,
    ) -> Result<Self, SealError> {
        let (address, digest) = (Addressee::seal(key, email)?, AddressDigest::of(key, email));
        let cooldown_ms = u64::try_from(millis_of(cooldown)).unwrap_or_default();
        Ok(Self {
            tenant: link.tenant_id,
            job: InviteByLink { link: link.id, address, digest, cooldown_ms },
        })
    }
}

impl Change for FollowInviteLink {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, Some(self.tenant), &self.job).await.map(drop)
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

impl Change for InviteFollower<'_> {
    /// None where the link was deleted or has expired.
    type Output = Option<Answered>;
    type Error = InviteError;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<Answered>, InviteError> {
        let Some(link) = InviteLink::within(txn, self.scope, self.link).await? else {
            return Ok(None);
        };
        if !link.is_for(self.email) {
            return Err(InviteError::DomainNotAllowed);
        }
        invite_on_request(txn, self.key, link.actor(), self.email, link.role, self.conditions)
            .await
            .map(Some)
    }
}
