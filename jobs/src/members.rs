//! Jobs of members, and the changes that stage them.

use std::time::Duration;

use common::{
    ambient::later,
    db::{Change, Txn},
    id::UserId,
    members::{ChangeRole, Given, MemberError, RemoveMember},
};
use serde::{Deserialize, Serialize};

use crate::{Job, Queue, Unique, Window, stage, stage_at};

/// Tells a member that they have another role: the one that they have by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendRoleChanged {
    /// Whom.
    pub user: UserId,
}

impl Job for SendRoleChanged {
    const KIND: &'static str = "member.send_role_changed";
    const QUEUE: Queue = Queue::Email;
    /// The first carried the role, and told nobody of one that they had no more.
    const VERSION: u16 = 2;

    /// Whoever is given one role after the other is told once.
    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: self.user.to_string(), window: Window::UntilStarted })
    }
}

/// Tells somebody that they were removed from a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendRemoved {
    /// Whom.
    pub user: UserId,
}

impl Job for SendRemoved {
    const KIND: &'static str = "member.send_removed";
    const QUEUE: Queue = Queue::Email;
}

/// Gives a member another role: as [`ChangeRole`], with word to them a moment later.
pub struct GiveRole {
    /// What is given.
    pub change: ChangeRole,
    /// After which time they are told, so that mails are at least this far apart.
    pub cooldown: Duration,
}

impl Change for GiveRole {
    type Output = Given;
    type Error = MemberError;

    async fn apply(&self, txn: &mut Txn) -> Result<Given, MemberError> {
        let given = self.change.apply(txn).await?;
        if given.is_new {
            let ChangeRole { actor, user, .. } = self.change;
            let due = later(txn.ambient().now(), self.cooldown);
            stage_at(txn, Some(actor.scope.tenant_id()), &SendRoleChanged { user }, due).await?;
        }
        Ok(given)
    }
}

/// Removes a member: as [`RemoveMember`], with word to them.
pub struct Remove(pub RemoveMember);

impl Change for Remove {
    type Output = ();
    type Error = MemberError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), MemberError> {
        let RemoveMember { actor, user } = self.0;
        self.0.apply(txn).await?;
        stage(txn, Some(actor.scope.tenant_id()), &SendRemoved { user }).await?;
        Ok(())
    }
}
