//! The tenant one works in.

use axum::response::Response;
use common::{clock::rfc3339, id::TenantId, name::Name};
use domain::tenancy::{
    roles::RoleRef,
    tenants::{Slug, Tenant, TenantStatus},
};
use mongodb::bson::Document;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    etag::IfNoneMatch,
    extract::{Requires, TenantRead},
    problem::Problem,
};

/// A tenant that one belongs to.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantSummary)]
pub(crate) struct TenantView {
    /// Its id.
    #[schema(value_type = String, example = "ten_0192a0b8c0de7000800000000000cafe")]
    id: TenantId,
    /// What it is called.
    #[schema(value_type = String, example = "Analytical Engines")]
    name: Name,
    /// Its short name; unique.
    #[schema(value_type = String, example = "analytical-engines")]
    slug: Slug,
    /// `active` or `suspended`.
    #[schema(value_type = String, example = "active")]
    status: TenantStatus,
    /// What one may do there.
    #[schema(value_type = String, example = "owner")]
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
}

/// The tenant one works in, whole.
#[derive(Serialize, ToSchema)]
#[schema(as = Tenant)]
pub(crate) struct CurrentTenant<'a> {
    /// Its id.
    #[schema(value_type = String, example = "ten_0192a0b8c0de7000800000000000cafe")]
    id: TenantId,
    /// What it is called.
    #[schema(value_type = String, example = "Analytical Engines")]
    name: &'a Name,
    /// Its short name; unique.
    #[schema(value_type = String, example = "analytical-engines")]
    slug: &'a Slug,
    /// `active` or `suspended`.
    #[schema(value_type = String, example = "active")]
    status: TenantStatus,
    /// The code of its plan.
    #[schema(example = "free")]
    plan: &'a str,
    /// What it configured for itself.
    #[schema(value_type = Object)]
    settings: &'a Document,
    /// How it wants to look.
    #[schema(value_type = Object)]
    branding: &'a Document,
    /// Since when.
    #[schema(format = DateTime)]
    created_at: String,
}

impl<'a> CurrentTenant<'a> {
    fn new(tenant: &'a Tenant) -> Self {
        Self {
            id: tenant.id,
            name: &tenant.name,
            slug: &tenant.slug,
            status: tenant.status,
            plan: &tenant.plan,
            settings: &tenant.settings,
            branding: &tenant.branding,
            created_at: rfc3339(tenant.created_at),
        }
    }
}

/// See the tenant one works in.
#[utoipa::path(
    get, path = "/api/tenant/current", tag = "Tenant",
    responses(
        (status = 200, description = "The tenant.", body = CurrentTenant, headers(("ETag" = String, description = "Names this state of it."))),
        (status = 304, description = "It is what one has."),
    )
)]
pub(crate) async fn current(
    access: Requires<TenantRead>,
    if_none_match: IfNoneMatch,
) -> Result<Response, Problem> {
    if_none_match.answer(&CurrentTenant::new(&access.caller.tenant))
}
