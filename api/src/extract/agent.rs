//! Who acts in a tenant: a user or a program.

use common::{db::TenantScope, origin::Origin};
use domain::tenancy::{
    actor::{Acting, Actor},
    roles::{Grant, Permission},
    tenants::Tenant,
};

use super::{Caller, program::Program};

/// A user or a program that acts in a tenant. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Agent {
    User(Caller),
    Program(Program),
}

impl Agent {
    /// Scope of the tenant.
    pub(crate) fn scope(&self) -> TenantScope {
        match self {
            Self::User(caller) => caller.scope(),
            Self::Program(program) => program.scope(),
        }
    }

    /// The tenant.
    pub(crate) fn tenant(&self) -> &Tenant {
        match self {
            Self::User(caller) => &caller.tenant,
            Self::Program(program) => program.tenant(),
        }
    }

    /// Actor of the changes that they make in the tenant.
    pub(crate) fn actor(&self) -> Actor {
        match self {
            Self::User(caller) => caller.actor(),
            Self::Program(program) => program.actor(),
        }
    }

    /// Whether they may do what `permission` allows.
    pub(crate) fn may(&self, permission: Permission) -> bool {
        match self {
            Self::User(caller) => caller.grant.may(permission),
            Self::Program(program) => program.grant().is_some_and(|grant| grant.may(permission)),
        }
    }

    /// Whether they may assign or revoke the role of `other`. A program can give nobody power.
    pub(crate) fn reaches(&self, other: &Grant) -> bool {
        match self {
            Self::User(caller) => caller.grant.reaches(other),
            Self::Program(program) => {
                let gives_power = other.permissions.give_power();
                !gives_power && program.grant().is_some_and(|grant| grant.reaches(other))
            }
        }
    }

    /// Whether the tenant requires a second factor and the user, or the sponsor of the key, has none.
    pub(crate) fn lacks_second_factor(&self) -> bool {
        match self {
            Self::User(caller) => caller.lacks_second_factor(),
            Self::Program(program) => program.lacks_second_factor(),
        }
    }

    /// Origin of the changes that they make by this request.
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::User(caller) => caller.account.origin(),
            Self::Program(program) => program.origin(),
        }
    }

    /// A change on their behalf that requires the permission.
    pub(super) fn acting<'a, C>(&self, needs: Permission, change: &'a C) -> Acting<'a, C> {
        match self {
            Self::User(caller) => caller.acting(needs, change),
            Self::Program(program) => program.acting(needs, change),
        }
    }
}
