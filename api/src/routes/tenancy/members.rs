//! Members of the tenant.

use std::str::FromStr;

use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use common::{
    clock::Timestamp,
    email::Email,
    id::{self, UserId},
};
use domain::tenancy::{
    custom_roles::CustomRole,
    members::{ChangeRole, LeaveTenant, Member, MemberError, MemberFilter, RemoveMember},
    roles::RoleRef,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::{page::Page, sign_in::signed_out},
    extract::{
        Caller, Fields, Filter, FromFields, Json, NotAmong, PageQuery, PathId, Requires,
        UsersDelete, UsersRead, UsersWrite,
    },
    problem::{NotRecent, Problem, Refusals},
    state::App,
};

/// A member of the tenant.
#[derive(Serialize, ToSchema)]
#[schema(as = Member)]
pub(crate) struct MemberView {
    id: UserId,
    email: Email,
    #[schema(example = "Ada Lovelace")]
    name: String,
    role: RoleRef,
    /// Name of the role.
    #[schema(example = "Member")]
    role_name: String,
    /// Always `active`.
    #[schema(example = "active")]
    status: &'static str,
    joined_at: Timestamp,
}

impl MemberView {
    fn new(member: Member, roles: &[CustomRole]) -> Self {
        let Member { membership, user } = member;
        Self {
            id: user.id,
            email: user.email,
            name: user.name,
            role_name: membership.role.label(roles),
            role: membership.role,
            status: ACTIVE,
            joined_at: membership.created_at.into(),
        }
    }
}

const ACTIVE: &str = "active";

/// Status of a member.
struct Status;

impl FromStr for Status {
    type Err = NotAmong;
    fn from_str(text: &str) -> Result<Self, NotAmong> {
        if text == ACTIVE { Ok(Self) } else { Err(NotAmong(&[ACTIVE])) }
    }
}

/// Narrows the list of members.
pub(crate) struct MemberQuery {
    text: Option<String>,
    role: Option<RoleRef>,
}

impl FromFields for MemberQuery {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (text, role) = (fields.optional_text("q"), fields.optional("role"));
        // All members are active, so this filter changes nothing.
        fields.optional::<Status>("status");
        Some(Self { text, role })
    }
}

impl Filter for MemberQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[
        ("q", "Part of the name or of the email address."),
        ("role", "The role of the members."),
        ("status", "Status of the members. All members are `active`."),
    ];
}

/// List members
///
/// Lists the members in the order in which they joined. A page can have fewer items than `limit`
/// and still not be the last.
#[utoipa::path(
    get, path = "/api/tenant/users", tag = "Members",
    responses((status = 200, description = "The members.", body = Page<MemberView>))
)]
pub(crate) async fn list(
    access: Requires<UsersRead>,
    State(app): State<App>,
    query: PageQuery<id::Membership, MemberQuery>,
) -> Result<Answer<Page<MemberView>>, Problem> {
    let scope = access.caller.scope();
    let MemberQuery { text, role } = query.filter;
    let filter = MemberFilter { text, role, after: query.after };
    let page = Member::page(app.store(), scope, &filter, query.limit).await?;
    let roles = CustomRole::all(app.store(), scope).await?;
    let items = page.members.into_iter().map(|member| MemberView::new(member, &roles));
    Ok(Answer(Page::new(items, page.next)))
}

#[derive(ToSchema)]
pub(crate) struct MemberBody {
    role: RoleRef,
}

impl FromFields for MemberBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { role: fields.required("role")? })
    }
}

/// Change a member's role
///
/// The change applies from the member's next request. They are notified by email. Recent
/// authentication is required to give a role that can change members, roles, security rules or API
/// keys, and to change the role of an owner.
#[utoipa::path(
    put, path = "/api/tenant/users/{id}", tag = "Members",
    request_body = MemberBody,
    responses(
        (status = 200, description = "Changed.", body = MemberView),
        Refusals<(MemberError, NotRecent)>,
    )
)]
pub(crate) async fn update(
    access: Requires<UsersWrite>,
    State(app): State<App>,
    PathId(user): PathId<UserId>,
    Json(body): Json<MemberBody>,
) -> Result<Answer<MemberView>, Problem> {
    let actor = access.caller.actor();
    let change = ChangeRole { actor, user, role: body.role, cooldown: app.auth.resend_cooldown };
    let given = access.commit(&app, &change).await?;
    Ok(Answer(MemberView::new(given.member, &CustomRole::all(app.store(), actor.scope).await?)))
}

/// Remove a member
///
/// The member's sessions in the tenant end at once. They are notified by email. Recent
/// authentication is required to remove an owner.
#[utoipa::path(
    delete, path = "/api/tenant/users/{id}", tag = "Members",
    responses((status = 204, description = "Removed."), Refusals<(MemberError, NotRecent)>)
)]
pub(crate) async fn remove(
    access: Requires<UsersDelete>,
    State(app): State<App>,
    PathId(user): PathId<UserId>,
) -> Result<StatusCode, Problem> {
    access.commit(&app, &RemoveMember { actor: access.caller.actor(), user }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Leave the tenant
///
/// The caller's sessions in the tenant end at once; those in other tenants continue. Owners need
/// recent authentication.
#[utoipa::path(
    delete, path = "/api/tenant/users/me", tag = "Members",
    responses(
        (status = 204, description = "The caller is no longer a member."),
        Refusals<(MemberError, NotRecent)>,
    )
)]
pub(crate) async fn leave(caller: Caller, State(app): State<App>) -> Result<Response, Problem> {
    caller.commit(&app, &LeaveTenant { actor: caller.actor() }).await?;
    Ok(signed_out(&app))
}
