//! The current tenant: the one that the session is in.

use axum::response::Response;
use common::{clock::Timestamp, id::TenantId, name::Name};
use domain::tenancy::tenants::{Slug, Tenant, TenantStatus};
use mongodb::bson::Document;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::etag::IfNoneMatch,
    extract::{Requires, TenantRead},
    problem::Problem,
};

/// The current tenant.
#[derive(Serialize, ToSchema)]
#[schema(as = Tenant)]
pub(crate) struct CurrentTenant<'a> {
    id: TenantId,
    name: &'a Name,
    slug: &'a Slug,
    status: TenantStatus,
    /// Code of its plan.
    #[schema(example = "free")]
    plan: &'a str,
    /// Settings of the tenant.
    #[schema(value_type = Object)]
    settings: &'a Document,
    /// Branding of the tenant.
    #[schema(value_type = Object)]
    branding: &'a Document,
    created_at: Timestamp,
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
            created_at: tenant.created_at.into(),
        }
    }
}

/// Get the current tenant
///
/// Returns the tenant that the session is in.
#[utoipa::path(
    get, path = "/api/tenant/current", tag = "Tenant",
    responses(
        (status = 200, description = "The tenant.", body = CurrentTenant, headers(("ETag" = String, description = "Identifies the current state."))),
        (status = 304, description = "The client already has the current state."),
    )
)]
pub(crate) async fn current(
    access: Requires<TenantRead>,
    if_none_match: IfNoneMatch,
) -> Result<Response, Problem> {
    if_none_match.answer(&CurrentTenant::new(&access.caller.tenant))
}
