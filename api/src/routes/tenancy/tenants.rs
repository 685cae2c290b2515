//! The tenants of the caller, and the current one, which the session is in.

use axum::{Json as Answer, extract::State, response::Response};
use common::{
    clock::Timestamp,
    id::{self, TenantId},
    name::Name,
};
use domain::tenancy::{
    belongings::BelongingPage,
    roles::Role,
    tenants::{CreateTenant, CreateTenantError, Slug, Tenant, TenantStatus},
};
use mongodb::bson::Document;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::{etag::IfNoneMatch, page::Page, reply, tenants::TenantView},
    extract::{Account, Fields, FromFields, Idempotency, Json, PageQuery, Requires, TenantRead},
    problem::{Problem, Refusals},
    state::App,
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
    if_none_match.answer(&CurrentTenant::new(access.caller.tenant()))
}

/// List your tenants
///
/// Lists the tenants that the user is a member of, in the order in which they joined them, and their
/// role in each. Also works for a user who is not signed in to a tenant.
#[utoipa::path(
    get, path = "/api/tenants", tag = "Tenant",
    responses((status = 200, description = "The tenants.", body = Page<TenantView>))
)]
pub(crate) async fn list(
    account: Account,
    State(app): State<App>,
    query: PageQuery<id::Membership>,
) -> Result<Answer<Page<TenantView>>, Problem> {
    let page = BelongingPage::of(app.store(), account.user.id, query.after, query.limit).await?;
    Ok(Answer(Page::new(page.belongings.iter().map(TenantView::of), page.next)))
}

#[derive(ToSchema)]
pub(crate) struct NewTenant {
    name: Name,
    /// Derived from the name by default.
    slug: Option<Slug>,
}

impl FromFields for NewTenant {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (name, slug) = (fields.required("name"), fields.optional("slug"));
        Some(Self { name: name?, slug })
    }
}

/// Create a tenant
///
/// The user becomes its owner. The session stays where it is: switch to the new tenant with `POST
/// /api/auth/switch-tenant`. Also works for a user who is not signed in to a tenant.
#[utoipa::path(
    post, path = "/api/tenants", tag = "Tenant", request_body = NewTenant,
    responses(
        (status = 201, description = "Created.", body = TenantView),
        Refusals<CreateTenantError>,
    )
)]
pub(crate) async fn create(
    account: Account,
    State(app): State<App>,
    once: Idempotency,
    Json(body): Json<NewTenant>,
) -> Result<Response, Problem> {
    let NewTenant { name, slug } = body;
    let (user, max) = (account.user.id, app.members.tenants_owned_max);
    let created = |tenant| reply::created(&TenantView::new(&tenant, Role::Owner.into()));
    let create = CreateTenant { user, name, slug, max };
    account.commit_once(&app, once, &create, created).await
}
