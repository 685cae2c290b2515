//! Jobs of members, and the changes that stage them.

use common::{
    db::{Change, Txn},
    id::UserId,
    members::{ChangeRole, Given, MemberError, RemoveMember},
    roles::RoleRef,
};
use serde::{Deserialize, Serialize};

use crate::{Job, Queue, stage};

/// Tells a member that they have another role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendRoleChanged {
    /// Whom.
    pub user: UserId,
    /// Which; nobody is told of one that they do not have any more.
    pub role: RoleRef,
}

impl Job for SendRoleChanged {
    const KIND: &'static str = "member.send_role_changed";
    const QUEUE: Queue = Queue::Email;
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

/// Gives a member another role: as [`ChangeRole`], with word to them.
pub struct GiveRole(pub ChangeRole);

impl Change for GiveRole {
    type Output = Given;
    type Error = MemberError;

    async fn apply(&self, txn: &mut Txn) -> Result<Given, MemberError> {
        let given = self.0.apply(txn).await?;
        if given.is_new {
            let ChangeRole { actor, user, role } = self.0;
            stage(txn, Some(actor.scope.tenant_id()), &SendRoleChanged { user, role }).await?;
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
