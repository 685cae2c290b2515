//! Roles: the built-in ones, and the tenant's own.

use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use common::{clock::Timestamp, id::RoleId, name::Name};
use domain::tenancy::{
    custom_roles::{CreateRole, CustomRole, DeleteRole, RoleError, UpdateRole},
    roles::{Grant, Permission, Permissions, Role, RoleRef},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::{
        etag::{self, IfMatch, IfNoneMatch},
        page::List,
        reply,
    },
    extract::{
        Agent, Fields, FromFields, Idempotency, Json, PathId, Requires, RolesRead, RolesWrite,
    },
    problem::{NotRecent, Problem, Refusals},
    state::App,
};

/// A role of a tenant.
#[derive(Serialize, ToSchema)]
#[schema(as = Role)]
pub(crate) struct RoleView {
    id: RoleRef,
    #[schema(example = "Support")]
    name: String,
    /// Whether every tenant has the role. Built-in roles cannot be changed.
    built_in: bool,
    permissions: Permissions,
    created_at: Option<Timestamp>,
    /// When the role last changed.
    updated_at: Option<Timestamp>,
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
            created_at: Some(role.created_at.into()),
            updated_at: Some(role.updated_at.into()),
        }
    }
}

/// A role in the list.
#[derive(Serialize, ToSchema)]
pub(crate) struct ListedRole {
    #[serde(flatten)]
    role: RoleView,
    /// Whether the caller may give the role to somebody.
    assignable: bool,
}

impl ListedRole {
    fn new(role: RoleView, given: &Grant, caller: &Agent) -> Self {
        let may_give = [Permission::UsersInvite, Permission::UsersWrite];
        let may_give = may_give.into_iter().any(|permission| caller.may(permission));
        Self { role, assignable: may_give && caller.reaches(given) }
    }
}

#[derive(ToSchema)]
pub(crate) struct RoleBody {
    /// Unique among the roles of the tenant.
    name: Name,
    /// What members with the role may do. The caller must have these permissions too.
    permissions: Permissions,
}

impl FromFields for RoleBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (name, permissions) = (fields.required("name"), fields.required_list("permissions"));
        Some(Self { name: name?, permissions: permissions?.into_iter().collect() })
    }
}

/// List roles
///
/// Lists the built-in roles, the most powerful first, then the roles of the tenant by name.
#[utoipa::path(
    get, path = "/api/tenant/roles", tag = "Roles",
    responses((status = 200, description = "The roles.", body = List<ListedRole>))
)]
pub(crate) async fn list(
    access: Requires<RolesRead>,
    State(app): State<App>,
) -> Result<Answer<List<ListedRole>>, Problem> {
    let own = CustomRole::all(app.store(), access.caller.scope()).await?;
    let built_in =
        Role::ALL.iter().map(|role| (RoleView::from(Grant::from(*role)), Grant::from(*role)));
    let own = own.into_iter().map(|role| (RoleView::from(role.clone()), role.grant()));
    let listed = |(view, given): (RoleView, Grant)| ListedRole::new(view, &given, &access.caller);
    Ok(Answer(built_in.chain(own).map(listed).collect()))
}

/// Create a role
///
/// Recent authentication is required for a role that can change members, roles, security rules or
/// API keys.
#[utoipa::path(
    post, path = "/api/tenant/roles", tag = "Roles", request_body = RoleBody,
    responses(
        (status = 201, description = "Created.", body = RoleView, headers(("ETag" = String, description = "Identifies the current state."))),
        Refusals<(RoleError, NotRecent)>,
    )
)]
pub(crate) async fn create(
    access: Requires<RolesWrite>,
    State(app): State<App>,
    once: Idempotency,
    Json(body): Json<RoleBody>,
) -> Result<Response, Problem> {
    let RoleBody { name, permissions } = body;
    let create = CreateRole {
        actor: access.caller.actor(),
        name,
        permissions,
        max: app.members.custom_roles_max,
    };
    let created = |role| reply::created_tagged(&RoleView::from(role));
    access.commit_once(&app, once, &create, created).await
}

/// Get a role
#[utoipa::path(
    get, path = "/api/tenant/roles/{id}", tag = "Roles",
    responses(
        (status = 200, description = "The role.", body = RoleView, headers(("ETag" = String, description = "Identifies the current state."))),
        (status = 304, description = "The client already has the current state."),
        Refusals<RoleError>,
    )
)]
pub(crate) async fn see(
    access: Requires<RolesRead>,
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

/// Change a role
///
/// The change applies to all members with the role at once. Recent authentication is required for a
/// role that can, from now on, change members, roles, security rules or API keys.
#[utoipa::path(
    put, path = "/api/tenant/roles/{id}", tag = "Roles", request_body = RoleBody,
    responses(
        (status = 200, description = "Changed.", body = RoleView, headers(("ETag" = String, description = "Identifies the current state."))),
        Refusals<(RoleError, NotRecent)>,
    )
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
    etag::tagged(StatusCode::OK, &RoleView::from(access.commit(&app, &update).await?))
}

/// Delete a role
///
/// A role can be deleted when no member, invitation, invite link or domain uses it.
#[utoipa::path(
    delete, path = "/api/tenant/roles/{id}", tag = "Roles",
    responses((status = 204, description = "Deleted."), Refusals<RoleError>)
)]
pub(crate) async fn delete(
    access: Requires<RolesWrite>,
    State(app): State<App>,
    PathId(role): PathId<RoleRef>,
) -> Result<StatusCode, Problem> {
    access.commit(&app, &DeleteRole { actor: access.caller.actor(), role: own(role)? }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The role to change. Built-in roles cannot be changed.
fn own(role: RoleRef) -> Result<RoleId, RoleError> {
    match role {
        RoleRef::Custom(id) => Ok(id),
        RoleRef::BuiltIn(_) => Err(RoleError::BuiltIn),
    }
}
