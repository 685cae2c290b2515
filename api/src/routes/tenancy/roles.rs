//! The roles that a tenant made itself, beside the built-in ones.

use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use common::{clock::rfc3339, id::RoleId, name::Name};
use domain::tenancy::{
    custom_roles::{CreateRole, CustomRole, DeleteRole, RoleError, UpdateRole},
    roles::{Grant, Permissions, Role, RoleRef},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    etag::{self, IfMatch, IfNoneMatch},
    extract::{Fields, FromFields, Json, PathId, Requires, RolesWrite},
    openapi::PermissionName,
    problem::Problem,
    state::App,
};

/// A role.
#[derive(Serialize, ToSchema)]
#[schema(as = Role)]
pub(crate) struct RoleView {
    /// Its id: a word for a built-in one.
    #[schema(value_type = String, example = "rol_0192a0b8c0de7000800000000000cafe")]
    id: RoleRef,
    /// What it is called.
    #[schema(example = "Support")]
    name: String,
    /// Whether every tenant has it, as it is.
    built_in: bool,
    /// What its holders may do.
    #[schema(value_type = Vec<PermissionName>, example = json!(["tenant:read", "users:read"]))]
    permissions: Permissions,
    /// Since when, if it is not built in.
    #[schema(format = DateTime)]
    created_at: Option<String>,
    /// When it last changed, if it is not built in.
    #[schema(format = DateTime)]
    updated_at: Option<String>,
}

impl From<Grant> for RoleView {
    fn from(grant: Grant) -> Self {
        let Grant { role: id, name, permissions } = grant;
        let built_in = matches!(id, RoleRef::BuiltIn(_));
        Self { id, name, built_in, permissions, created_at: None, updated_at: None }
    }
}

impl From<CustomRole> for RoleView {
    fn from(role: CustomRole) -> Self {
        Self {
            id: role.id.into(),
            name: role.name.to_string(),
            built_in: false,
            permissions: role.permissions,
            created_at: Some(rfc3339(role.created_at)),
            updated_at: Some(rfc3339(role.updated_at)),
        }
    }
}

/// The roles of a tenant.
#[derive(Serialize, ToSchema)]
pub(crate) struct Roles {
    /// The built-in ones, the mightiest first; then the tenant's own, by name.
    items: Vec<RoleView>,
}

/// What a role is to be.
#[derive(ToSchema)]
pub(crate) struct RoleBody {
    /// What it is to be called; unique among the tenant's roles.
    #[schema(value_type = String, min_length = 1, max_length = 100, example = "Support")]
    name: Name,
    /// What its holders may do: nothing that the one who asks may not.
    #[schema(value_type = Vec<PermissionName>, example = json!(["tenant:read", "users:read"]))]
    permissions: Permissions,
}

impl FromFields for RoleBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (name, permissions) = (fields.required("name"), fields.required_list("permissions"));
        Some(Self { name: name?, permissions: permissions?.into_iter().collect() })
    }
}

/// List the roles that members may have.
#[utoipa::path(
    get, path = "/api/tenant/roles", tag = "Roles",
    responses((status = 200, description = "The roles.", body = Roles))
)]
pub(crate) async fn list(
    access: Requires<RolesWrite>,
    State(app): State<App>,
) -> Result<Answer<Roles>, Problem> {
    let own = CustomRole::all(app.store(), access.caller.scope()).await?;
    let built_in = Role::ALL.iter().map(|role| Grant::from(*role).into());
    Ok(Answer(Roles { items: built_in.chain(own.into_iter().map(RoleView::from)).collect() }))
}

/// Make a role.
///
/// Refused as `role_too_high` (403) when it would hold a permission that one lacks, as
/// `role_name_taken` (409), and as `too_many_roles` (409) when the tenant has as many as it may.
#[utoipa::path(
    post, path = "/api/tenant/roles", tag = "Roles", request_body = RoleBody,
    responses((status = 201, description = "Made.", body = RoleView, headers(("ETag" = String, description = "Names this state of it."))))
)]
pub(crate) async fn create(
    access: Requires<RolesWrite>,
    State(app): State<App>,
    Json(body): Json<RoleBody>,
) -> Result<Response, Problem> {
    let RoleBody { name, permissions } = body;
    let create = CreateRole {
        actor: access.caller.actor(),
        name,
        permissions,
        max: app.members.custom_roles_max,
    };
    let role = access.caller.commit(&app, &create).await?;
    etag::tagged(StatusCode::CREATED, &RoleView::from(role))
}

/// See a role.
#[utoipa::path(
    get, path = "/api/tenant/roles/{id}", tag = "Roles",
    responses(
        (status = 200, description = "The role.", body = RoleView, headers(("ETag" = String, description = "Names this state of it."))),
        (status = 304, description = "It is what one has."),
    )
)]
pub(crate) async fn see(
    access: Requires<RolesWrite>,
    State(app): State<App>,
    PathId(role): PathId<RoleRef>,
    if_none_match: IfNoneMatch,
) -> Result<Response, Problem> {
    let role = match role {
        RoleRef::BuiltIn(role) => Grant::from(role).into(),
        RoleRef::Custom(id) => RoleView::from(
            CustomRole::of(app.store(), access.caller.scope(), id)
                .await?
                .ok_or(RoleError::NotFound)?,
        ),
    };
    if_none_match.answer(&role)
}

/// Change a role, for everybody who has it, at once.
///
/// Refused as `role_too_high` (403) when it holds or would hold a permission that one lacks, as
/// `role_built_in` (409) when every tenant has it, and as `precondition_failed` (412) when it is
/// not what `If-Match` says any more.
#[utoipa::path(
    put, path = "/api/tenant/roles/{id}", tag = "Roles", request_body = RoleBody,
    responses((status = 200, description = "Changed.", body = RoleView, headers(("ETag" = String, description = "Names this state of it."))))
)]
pub(crate) async fn update(
    access: Requires<RolesWrite>,
    State(app): State<App>,
    PathId(role): PathId<RoleRef>,
    if_match: IfMatch,
    Json(body): Json<RoleBody>,
) -> Result<Response, Problem> {
    let RoleBody { name, permissions } = body;
    let unchanged = |role: &CustomRole| if_match.holds(&RoleView::from(role.clone()));
    let update = UpdateRole {
        actor: access.caller.actor(),
        role: own(role)?,
        name,
        permissions,
        unchanged: &unchanged,
    };
    etag::tagged(StatusCode::OK, &RoleView::from(access.caller.commit(&app, &update).await?))
}

/// Delete a role that nobody has.
///
/// Refused as `role_in_use` (409) while a member or an invitation has it, and as `role_built_in`
/// (409) when every tenant has it.
#[utoipa::path(
    delete, path = "/api/tenant/roles/{id}", tag = "Roles",
    responses((status = 204, description = "It is gone."))
)]
pub(crate) async fn delete(
    access: Requires<RolesWrite>,
    State(app): State<App>,
    PathId(role): PathId<RoleRef>,
) -> Result<StatusCode, Problem> {
    access
        .caller
        .commit(&app, &DeleteRole { actor: access.caller.actor(), role: own(role)? })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The role of the tenant's own that a path names; the built-in ones cannot be changed.
fn own(role: RoleRef) -> Result<RoleId, RoleError> {
    match role {
        RoleRef::Custom(id) => Ok(id),
        RoleRef::BuiltIn(_) => Err(RoleError::BuiltIn),
    }
}
