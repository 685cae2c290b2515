//! The members of a tenant, and changes of their access.
//!
//! Every change locks the tenant (`Tenant::lock`), so that two owners who remove or demote each
//! other, or leave, at the same moment do so one after the other, and the second one is rejected.

use std::time::Duration;

use common::{
    clock::later,
    db::{Change, DbError, Store, TenantScope, Txn},
    id::{MembershipId, UserId},
    revocations::{self, Revoked},
};
use jobs::{Job, Queue, Unique, Window, stage, stage_at};
use mongodb::bson::doc;
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Property},
    people::{sessions::Session, users::User},
    queues,
    tenancy::{
        actor::Actor,
        api_keys,
        former_members::FormerMember,
        invitations::Invitation,
        memberships::Membership,
        ownership::OwnershipTransfer,
        roles::{Authority, Grant, OutOfReach, Role, RoleRef},
        tenants::Tenant,
    },
};

/// Memberships read per query during a search.
const SCAN_PAGE: i64 = 500;
/// Maximum number of memberships scanned for one page, so that an unsuccessful search in a large
/// tenant is bounded; the page is then short, and the next one continues there.
const SCAN_MAX: i64 = 10_000;

/// A member of a tenant.
#[derive(Debug, Clone)]
pub struct Member {
    pub membership: Membership,
    pub user: User,
}

/// Filters for members.
#[derive(Debug, Clone, Default)]
pub struct MemberFilter {
    /// Part of their name or email address, ignoring case.
    pub text: Option<String>,
    /// Their role.
    pub role: Option<RoleRef>,
    /// Only members after this one.
    pub after: Option<MembershipId>,
}

/// A page of members.
#[derive(Debug, Clone)]
pub struct MemberPage {
    /// The members, in the order in which they joined.
    pub members: Vec<Member>,
    /// Where to continue, if there may be more.
    pub next: Option<MembershipId>,
}

impl Member {
    /// Up to `limit` members of the scope's tenant.
    pub async fn page(
        store: &Store,
        scope: TenantScope,
        filter: &MemberFilter,
        limit: usize,
    ) -> Result<MemberPage, DbError> {
        let text = filter.text.as_ref().map(|text| text.to_lowercase());
        let (mut members, mut after, mut scanned) = (Vec::new(), filter.after, 0);
        while scanned < SCAN_MAX {
            let found = memberships(store, scope, filter.role, after).await?;
            let (is_last, last) = (
                i64::try_from(found.len()).is_ok_and(|len| len < SCAN_PAGE),
                found.last().map(|last| last.id),
            );
            for member in with_users(store, found).await? {
                if members.len() == limit {
                    return Ok(MemberPage { members, next: after });
                }
                after = Some(member.membership.id);
                if text.as_ref().is_none_or(|text| member.is_called(text)) {
                    members.push(member);
                }
            }
            if is_last {
                return Ok(MemberPage { members, next: None });
            }
            after = last;
            scanned += SCAN_PAGE;
        }
        Ok(MemberPage { members, next: after })
    }

    fn is_called(&self, text: &str) -> bool {
        self.user.email_norm.contains(text) || self.user.name.to_lowercase().contains(text)
    }
}

async fn memberships(
    store: &Store,
    scope: TenantScope,
    role: Option<RoleRef>,
    after: Option<MembershipId>,
) -> Result<Vec<Membership>, DbError> {
    let mut filter = doc! {};
    if let Some(role) = role {
        filter.insert("role", role);
    }
    if let Some(after) = after {
        filter.insert("_id", doc! { "$gt": after });
    }
    store.records::<Membership>(scope).list(filter, doc! { "_id": 1 }, SCAN_PAGE).await
}

/// The memberships with their users.
async fn with_users(store: &Store, memberships: Vec<Membership>) -> Result<Vec<Member>, DbError> {
    let ids: Vec<UserId> = memberships.iter().map(|membership| membership.user_id).collect();
    let users = User::by_ids(store, &ids).await?;
    let member = |membership: Membership| {
        let user = users.get(&membership.user_id)?.clone();
        Some(Member { membership, user })
    };
    Ok(memberships.into_iter().filter_map(member).collect())
}

/// Why a member was not changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The user is not a member of the tenant.
    #[error("the member does not exist")]
    NotFound,
    /// The tenant has no such role.
    #[error("the role does not exist")]
    NoSuchRole,
    /// The role that the member has, or would get, is out of the caller's reach.
    #[error(transparent)]
    Reach(#[from] OutOfReach),
    /// A tenant must have an owner.
    #[error("the member is the last owner")]
    LastOwner,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Result of giving a member a role.
#[derive(Debug, Clone)]
pub struct Given {
    /// The member in their new state.
    pub member: Member,
    /// Whether the role is different from before.
    pub is_new: bool,
}

/// Gives a member another role, and notifies them.
#[derive(Debug, Clone, Copy)]
pub struct ChangeRole {
    /// The caller.
    pub actor: Actor,
    pub user: UserId,
    /// The new role.
    pub role: RoleRef,
    /// Delay of the notification, so that several changes cause one mail.
    pub cooldown: Duration,
}

impl Change for ChangeRole {
    type Output = Given;
    type Error = MemberError;

    async fn apply(&self, txn: &mut Txn) -> Result<Given, MemberError> {
        let scope = self.actor.scope;
        let (mine, membership) = reach(txn, self.actor, self.user).await?;
        let after = Grant::within(txn, scope, self.role).await?.ok_or(MemberError::NoSuchRole)?;
        mine.may_give(&after)?;
        let user = User::within(txn, self.user).await?.ok_or(MemberError::NotFound)?;
        if membership.role == self.role {
            return Ok(Given { member: Member { membership, user }, is_new: false });
        }
        require_another_owner(txn, &membership).await?;
        let owner = RoleRef::from(Role::Owner);
        if membership.role == owner || self.role == owner {
            OwnershipTransfer::forget_all_of(txn, scope, self.user).await?;
        }
        let before = membership.role;
        let membership = membership.give(txn, self.role).await?.ok_or(MemberError::NotFound)?;
        let event = self.actor.did(Action::MemberRoleChanged, self.user);
        event.changed(Property::Role, &before, &self.role)?.record(txn, scope).await?;
        let due = later(txn.clock().now(), self.cooldown);
        stage_at(txn, Some(scope.tenant_id()), &SendRoleChanged { user: self.user }, due).await?;
        Ok(Given { member: Member { membership, user }, is_new: true })
    }
}

/// Removes a member, ends their sessions in the tenant, and notifies them.
#[derive(Debug, Clone, Copy)]
pub struct RemoveMember {
    /// The caller.
    pub actor: Actor,
    pub user: UserId,
}

impl Change for RemoveMember {
    type Output = ();
    type Error = MemberError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), MemberError> {
        let (_, membership) = reach(txn, self.actor, self.user).await?;
        end(txn, &membership).await?;
        self.actor.record(txn, Action::MemberRemoved, self.user).await?;
        let tenant = Some(self.actor.scope.tenant_id());
        stage(txn, tenant, &SendRemoved { user: self.user }).await?;
        Ok(())
    }
}

/// Leaves a tenant, and ends the member's own sessions in it.
#[derive(Debug, Clone, Copy)]
pub struct LeaveTenant {
    /// The member who leaves.
    pub actor: Actor,
}

impl Change for LeaveTenant {
    type Output = ();
    type Error = MemberError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), MemberError> {
        let user = self.actor.principal.user().ok_or(MemberError::NotFound)?;
        let (_, membership) = reach(txn, self.actor, user).await?;
        end(txn, &membership).await?;
        self.actor.record(txn, Action::MemberLeft, user).await?;
        Ok(())
    }
}

/// Ends a membership with everything that depends on it, unless it is that of the last owner.
async fn end(txn: &mut Txn, membership: &Membership) -> Result<(), MemberError> {
    require_another_owner(txn, membership).await?;
    let (scope, user) = (TenantScope::of_row(membership), membership.user_id);
    txn.records::<Membership>(scope).take(doc! { "_id": membership.id }).await?;
    if let Some(User { email, .. }) = User::within(txn, user).await? {
        FormerMember::note(txn, scope, user, &email).await?;
        // An earlier invitation must not let them join again.
        Invitation::forget_of(txn, scope, &email).await?;
    }
    OwnershipTransfer::forget_all_of(txn, scope, user).await?;
    Session::revoke_in_tenant(txn, user, scope.tenant_id()).await?;
    api_keys::suspend_in_tenant(txn, scope, user).await?;
    revocations::note(txn, Revoked::Member(scope.tenant_id(), user));
    Ok(())
}

/// Locks the tenant, and finds a member from whom the actor may take their role.
async fn reach(
    txn: &mut Txn,
    actor: Actor,
    user: UserId,
) -> Result<(Authority, Membership), MemberError> {
    Tenant::lock(txn, actor.scope).await?;
    let mine = actor.authority(txn).await?;
    let membership =
        Membership::within(txn, actor.scope, user).await?.ok_or(MemberError::NotFound)?;
    let theirs = Grant::within(txn, actor.scope, membership.role)
        .await?
        .unwrap_or_else(|| Grant::built_in(membership.role));
    mine.may_take(&theirs)?;
    Ok((mine, membership))
}

/// Fails if `membership` is that of the only owner, who is about to lose that role.
async fn require_another_owner(txn: &mut Txn, membership: &Membership) -> Result<(), MemberError> {
    let owner = RoleRef::from(Role::Owner);
    if membership.role != owner {
        return Ok(());
    }
    let scope = TenantScope::of_row(membership);
    let another = txn
        .records::<Membership>(scope)
        .find(doc! { "role": owner, "_id": { "$ne": membership.id } })
        .await?;
    another.map(drop).ok_or(MemberError::LastOwner)
}

/// Notifies a member that their role was changed, and names their role at that time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendRoleChanged {
    pub user: UserId,
}

impl Job for SendRoleChanged {
    const KIND: &'static str = "member.send_role_changed";
    const QUEUE: Queue = queues::EMAIL;
    /// Version 1 carried the role, and sent nothing if it was no longer current.
    const VERSION: u16 = 2;

    /// Several changes in a row cause one mail.
    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: self.user.to_string(), window: Window::UntilStarted })
    }
}

/// Notifies a person that they were removed from a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendRemoved {
    pub user: UserId,
}

impl Job for SendRemoved {
    const KIND: &'static str = "member.send_removed";
    const QUEUE: Queue = queues::EMAIL;
}
