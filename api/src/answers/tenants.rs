//! Tenants in responses.

use common::{id::TenantId, name::Name};
use domain::tenancy::{
    belongings::Belonging,
    roles::RoleRef,
    tenants::{Slug, Tenant, TenantStatus},
};
use serde::Serialize;
use utoipa::ToSchema;

/// A tenant that the user is a member of.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantSummary)]
pub(crate) struct TenantView {
    id: TenantId,
    name: Name,
    slug: Slug,
    status: TenantStatus,
    /// The user's role in the tenant.
    role: RoleRef,
}

impl TenantView {
    pub(crate) fn new(tenant: &Tenant, role: RoleRef) -> Self {
        Self {
            id: tenant.id,
            name: tenant.name.clone(),
            slug: tenant.slug.clone(),
            status: tenant.status,
            role,
        }
    }

    pub(crate) fn of(belonging: &Belonging) -> Self {
        Self::new(&belonging.tenant, belonging.role)
    }
}
