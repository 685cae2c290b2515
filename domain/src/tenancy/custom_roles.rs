//! Custom roles of a tenant.
//!
//! Every change here, like every change of access within a tenant, first locks the tenant
//! (`Tenant::lock`): such changes are serialized, so a role cannot be deleted while it is being
//! assigned, and concurrent creations cannot exceed the limit.

use common::{
    db::{
        Change, Data, DbError, OfTenant, Record, Store, TenantScope, Txn, Unchanged, is_duplicate,
        schema::{self, Field, Index},
    },
    id::{RoleId, TenantId},
    name::Name,
    revocations::{self, Revoked},
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Property},
    tenancy::{
        actor::Actor,
        invitations::Invitation,
        invite_links::InviteLink,
        memberships::Membership,
        roles::{Grant, OutOfReach, Permissions, Role, RoleRef},
        tenant_domains::TenantDomain,
        tenants::Tenant,
    },
};

/// Maximum number of roles in a listing; more than a tenant may have.
const LISTED_MAX: i64 = 1_000;
/// Unique index: the names of a tenant's roles are distinct.
const NAME_INDEX: &str = "roles_tenant_name";

/// A custom role.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CustomRole {
    #[serde(rename = "_id")]
    pub id: RoleId,
    /// The tenant that it belongs to.
    pub tenant_id: TenantId,
    /// Name of the role.
    pub name: Name,
    /// The skeleton of the name, for comparisons.
    name_norm: String,
    /// What its holders may do.
    pub permissions: Permissions,
    /// When it was created.
    pub created_at: DateTime,
    /// When it last changed.
    pub updated_at: DateTime,
}

impl Record for CustomRole {
    const COLLECTION: &'static str = "roles";
    const DATA: Data = Data::of_tenant();
    const INDEXES: &'static [Index] =
        &[Index::unique(NAME_INDEX, &[("tenant_id", 1), ("name_norm", 1)])];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("name", schema::STRING),
        ("name_norm", schema::STRING),
        ("permissions", schema::ARRAY),
        ("created_at", schema::DATE),
        ("updated_at", schema::DATE),
    ];
}
impl OfTenant for CustomRole {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

impl CustomRole {
    /// The custom roles of the tenant, by name.
    pub async fn all(store: &Store, scope: TenantScope) -> Result<Vec<Self>, DbError> {
        store.records::<Self>(scope).list(doc! {}, doc! { "name_norm": 1 }, LISTED_MAX).await
    }

    /// The custom role of the tenant with this id.
    pub async fn of(
        store: &Store,
        scope: TenantScope,
        id: RoleId,
    ) -> Result<Option<Self>, DbError> {
        store.records::<Self>(scope).find(doc! { "_id": id }).await
    }

    /// What the role allows.
    pub fn grant(self) -> Grant {
        Grant { role: self.id.into(), name: self.name.to_string(), permissions: self.permissions }
    }

    async fn within(
        txn: &mut Txn,
        scope: TenantScope,
        id: RoleId,
    ) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(scope).find(doc! { "_id": id }).await
    }

    /// Whether a member has it, or someone may receive it through an invitation, an invite link or
    /// an email domain.
    async fn is_in_use(txn: &mut Txn, scope: TenantScope, id: RoleId) -> Result<bool, DbError> {
        let filter = doc! { "role": RoleRef::from(id) };
        Ok(txn.records::<Membership>(scope).find(filter).await?.is_some()
            || Invitation::names_role(txn, scope, id.into()).await?
            || InviteLink::names_role(txn, scope, id.into()).await?
            || TenantDomain::names_role(txn, scope, id.into()).await?)
    }
}

impl Grant {
    /// The grant of `role` in the scope's tenant; without permissions if the role does not exist.
    pub async fn of(store: &Store, scope: TenantScope, role: RoleRef) -> Result<Self, DbError> {
        let RoleRef::Custom(id) = role else { return Ok(Self::built_in(role)) };
        let found = CustomRole::of(store, scope, id).await?;
        Ok(found.map_or_else(|| Self::built_in(role), CustomRole::grant))
    }

    /// The grant of `role`, within a transaction; none if the role does not exist.
    pub(crate) async fn within(
        txn: &mut Txn,
        scope: TenantScope,
        role: RoleRef,
    ) -> Result<Option<Self>, DbError> {
        match role {
            RoleRef::BuiltIn(role) => Ok(Some(role.into())),
            RoleRef::Custom(id) => {
                Ok(CustomRole::within(txn, scope, id).await?.map(CustomRole::grant))
            }
        }
    }

    /// The grants of those `roles` that exist, within a transaction.
    pub(crate) async fn all_within(
        txn: &mut Txn,
        scope: TenantScope,
        roles: impl IntoIterator<Item = RoleRef>,
    ) -> Result<Vec<Self>, DbError> {
        let (mut grants, mut ids) = (Vec::new(), Vec::new());
        for role in roles {
            match role {
                RoleRef::BuiltIn(role) => grants.push(role.into()),
                RoleRef::Custom(id) => ids.push(id),
            }
        }
        let filter = doc! { "_id": { "$in": ids } };
        let own = txn.records::<CustomRole>(scope).list(filter, doc! {}, LISTED_MAX).await?;
        grants.extend(own.into_iter().map(CustomRole::grant));
        Ok(grants)
    }

    /// The grant of a role without a lookup: a custom role grants nothing.
    pub(crate) fn built_in(role: RoleRef) -> Self {
        match role {
            RoleRef::BuiltIn(role) => role.into(),
            RoleRef::Custom(_) => {
                Self { role, name: String::new(), permissions: Permissions::NONE }
            }
        }
    }
}

impl RoleRef {
    /// Name of the role; `own` are the tenant's custom roles.
    pub fn label(self, own: &[CustomRole]) -> String {
        match self {
            Self::BuiltIn(role) => role.label().to_owned(),
            Self::Custom(id) => own
                .iter()
                .find(|role| role.id == id)
                .map_or_else(|| id.to_string(), |role| role.name.to_string()),
        }
    }
}

/// Why a role was not created, changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The tenant has no such role.
    #[error("the role does not exist")]
    NotFound,
    /// The role is built in and cannot be changed.
    #[error("the role is built in and cannot be changed")]
    BuiltIn,
    /// Another role has this name.
    #[error("another role has this name")]
    NameTaken,
    /// The role is out of the caller's reach.
    #[error(transparent)]
    Reach(#[from] OutOfReach),
    /// The role is not as the caller last saw it.
    #[error("the role has been changed in the meantime")]
    Changed,
    /// Members or invitations have it.
    #[error("the role is in use")]
    InUse,
    /// The tenant has reached its limit of roles.
    #[error("the tenant has reached its limit of custom roles")]
    TooMany,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

fn name_taken(error: DbError) -> RoleError {
    if is_duplicate(&error, NAME_INDEX) { RoleError::NameTaken } else { error.into() }
}

/// The form by which a name is compared; the names of built-in roles are reserved.
fn normalized(name: &Name) -> Result<String, RoleError> {
    let norm = name.skeleton();
    if Role::ALL.iter().any(|role| role.as_str() == norm) {
        Err(RoleError::NameTaken)
    } else {
        Ok(norm)
    }
}

/// Creates a role.
#[derive(Debug)]
pub struct CreateRole {
    /// The caller.
    pub actor: Actor,
    /// Name of the role.
    pub name: Name,
    /// What its holders may do.
    pub permissions: Permissions,
    /// Maximum number of roles per tenant.
    pub max: u64,
}

impl Change for CreateRole {
    type Output = CustomRole;
    type Error = RoleError;

    async fn apply(&self, txn: &mut Txn) -> Result<CustomRole, RoleError> {
        let scope = self.actor.scope;
        let name_norm = normalized(&self.name)?;
        Tenant::lock(txn, scope).await?;
        let (id, now) = (txn.clock().id(), txn.clock().now());
        let (name, permissions) = (self.name.clone(), self.permissions);
        let role = CustomRole {
            id,
            tenant_id: scope.tenant_id(),
            name,
            name_norm,
            permissions,
            created_at: now,
            updated_at: now,
        };
        self.actor.authority(txn).await?.may_give(&role.clone().grant())?;
        if txn.records::<CustomRole>(scope).count(doc! {}).await? >= self.max {
            return Err(RoleError::TooMany);
        }
        txn.records::<CustomRole>(scope).insert(&role).await.map_err(name_taken)?;
        self.actor.record(txn, Action::RoleCreated, id).await?;
        Ok(role)
    }
}

/// Changes a role, with immediate effect for everyone who has it.
pub struct UpdateRole<'a> {
    /// The caller.
    pub actor: Actor,
    pub role: RoleId,
    /// The new name.
    pub name: Name,
    /// What its holders may do from now on.
    pub permissions: Permissions,
    /// Whether the role is still as the caller last saw it.
    pub unchanged: Unchanged<'a, CustomRole>,
}

impl Change for UpdateRole<'_> {
    type Output = CustomRole;
    type Error = RoleError;

    async fn apply(&self, txn: &mut Txn) -> Result<CustomRole, RoleError> {
        let scope = self.actor.scope;
        let name_norm = normalized(&self.name)?;
        Tenant::lock(txn, scope).await?;
        let before = CustomRole::within(txn, scope, self.role).await?.ok_or(RoleError::NotFound)?;
        let (id, now) = (self.role, txn.clock().now());
        let after = CustomRole {
            name: self.name.clone(),
            name_norm: name_norm.clone(),
            permissions: self.permissions,
            updated_at: now,
            ..before.clone()
        };
        let authority = self.actor.authority(txn).await?;
        authority.may_take(&before.clone().grant())?;
        authority.may_give(&after.clone().grant())?;
        if !(self.unchanged)(&before) {
            return Err(RoleError::Changed);
        }
        let update = doc! { "$set": { "name": self.name.to_string(), "name_norm": &name_norm, "permissions": self.permissions, "updated_at": now } };
        txn.records::<CustomRole>(scope)
            .update(doc! { "_id": id }, update)
            .await
            .map_err(name_taken)?;
        revocations::note(txn, Revoked::Tenant(scope.tenant_id()));
        let event = self.actor.did(Action::RoleUpdated, id);
        event
            .changed(Property::Permissions, &before.permissions, &self.permissions)?
            .record(txn, scope)
            .await?;
        Ok(after)
    }
}

/// Deletes a role that is not in use.
#[derive(Debug)]
pub struct DeleteRole {
    /// The caller.
    pub actor: Actor,
    pub role: RoleId,
}

impl Change for DeleteRole {
    type Output = ();
    type Error = RoleError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), RoleError> {
        let scope = self.actor.scope;
        Tenant::lock(txn, scope).await?;
        let role = CustomRole::within(txn, scope, self.role).await?.ok_or(RoleError::NotFound)?;
        self.actor.authority(txn).await?.may_take(&role.grant())?;
        if CustomRole::is_in_use(txn, scope, self.role).await? {
            return Err(RoleError::InUse);
        }
        txn.records::<CustomRole>(scope).take(doc! { "_id": self.role }).await?;
        self.actor.record(txn, Action::RoleDeleted, self.role).await?;
        Ok(())
    }
}
