//! Who belongs to the tenant, and as what.

use std::str::FromStr;

use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use common::{
    clock::rfc3339,
    email::Email,
    id::{self, UserId},
};
use domain::tenancy::{
    custom_roles::CustomRole,
    members::{ChangeRole, LeaveTenant, Member, MemberFilter, RemoveMember},
    memberships::Membership,
    roles::{Role, RoleRef},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    extract::{
        Caller, Cursor, Fields, FromFields, Json, NotAmong, Paging, PathId, Query, Requires,
        UsersDelete, UsersRead, UsersWrite, is_recent,
    },
    problem::Problem,
    routes::identity::sessions::signed_out,
    state::App,
};

/// Someone who belongs to the tenant.
#[derive(Serialize, ToSchema)]
#[schema(as = Member)]
pub(crate) struct MemberView {
    /// The person's id.
    #[schema(value_type = String, example = "usr_0192a0b8c0de7000800000000000cafe")]
    id: UserId,
    /// Their address.
    #[schema(value_type = String, format = "email", example = "ada@example.com")]
    email: Email,
    /// What they are called.
    #[schema(example = "Ada Lovelace")]
    name: String,
    /// Their role.
    #[schema(value_type = String, example = "member")]
    role: RoleRef,
    /// What the role is called.
    #[schema(example = "Member")]
    role_name: String,
    /// Always `active`.
    #[schema(value_type = String, example = "active")]
    status: &'static str,
    /// Since when.
    #[schema(format = DateTime)]
    joined_at: String,
}

impl MemberView {
    fn new(member: Member, roles: &[CustomRole]) -> Self {
        let Member { membership, user } = member;
        Self {
            id: user.id,
            email: user.email,
            name: user.name,
            role_name: role_name(membership.role, roles),
            role: membership.role,
            status: ACTIVE,
            joined_at: rfc3339(membership.created_at),
        }
    }
}

const ACTIVE: &str = "active";

/// What a role is called among the tenant's own and the built-in ones; its id, where it is neither.
pub(crate) fn role_name(role: RoleRef, own: &[CustomRole]) -> String {
    match role {
        RoleRef::BuiltIn(role) => role.label().to_owned(),
        RoleRef::Custom(id) => own
            .iter()
            .find(|role| role.id == id)
            .map_or_else(|| id.to_string(), |role| role.name.to_string()),
    }
}

/// Members of the tenant.
#[derive(Serialize, ToSchema)]
pub(crate) struct Members {
    /// They, in the order in which they joined.
    items: Vec<MemberView>,
    /// Where the list goes on, if there may be more.
    #[schema(value_type = Option<String>)]
    next_cursor: Option<Cursor<id::Membership>>,
}

/// How a member stands.
struct Status;

impl FromStr for Status {
    type Err = NotAmong;
    fn from_str(text: &str) -> Result<Self, NotAmong> {
        if text == ACTIVE { Ok(Self) } else { Err(NotAmong(&[ACTIVE])) }
    }
}

/// Which members are wanted.
pub(crate) struct Wanted {
    filter: MemberFilter,
    limit: usize,
}

impl FromFields for Wanted {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (text, role) = (fields.optional_text("q"), fields.optional("role"));
        // All members are active; the parameter is read so that a client may say so.
        fields.optional::<Status>("status");
        let Paging { limit, after } = Paging::read(fields);
        Some(Self { filter: MemberFilter { text, role, after }, limit })
    }
}

/// List the members.
#[utoipa::path(
    get, path = "/api/tenant/users", tag = "Members",
    params(
        ("q" = Option<String>, Query, description = "A part of their name or address."),
        ("role" = Option<String>, Query, description = "Their role."),
        ("status" = Option<String>, Query, description = "`active`, which all members are."),
        ("limit" = Option<u32>, Query, description = "How many at most, 1 to 100; 25 when not given. A page may be shorter and not the last."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before."),
    ),
    responses((status = 200, description = "The members.", body = Members))
)]
pub(crate) async fn list(
    access: Requires<UsersRead>,
    State(app): State<App>,
    Query(wanted): Query<Wanted>,
) -> Result<Answer<Members>, Problem> {
    let scope = access.caller.scope();
    let page = Member::page(app.store(), scope, &wanted.filter, wanted.limit).await?;
    let roles = CustomRole::all(app.store(), scope).await?;
    let items = page.members.into_iter().map(|member| MemberView::new(member, &roles)).collect();
    Ok(Answer(Members { items, next_cursor: page.next.map(Cursor) }))
}

/// What a member is to be.
#[derive(ToSchema)]
pub(crate) struct MemberBody {
    /// Their role: a built-in one, or the id of one of the tenant's own.
    #[schema(value_type = String, example = "member")]
    role: RoleRef,
}

impl FromFields for MemberBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { role: fields.required("role")? })
    }
}

/// Give a member another role.
///
/// Effective at their next request; they are told by mail soon after. Refused as `role_too_high`
/// (403) when they may, or would, do what one may not oneself, and as `last_owner` (409) when
/// nobody would own the tenant then.
#[utoipa::path(
    put, path = "/api/tenant/users/{id}", tag = "Members",
    request_body = MemberBody,
    responses((status = 200, description = "Changed.", body = MemberView))
)]
pub(crate) async fn update(
    access: Requires<UsersWrite>,
    State(app): State<App>,
    PathId(user): PathId<UserId>,
    Json(body): Json<MemberBody>,
) -> Result<Answer<MemberView>, Problem> {
    let actor = access.caller.actor();
    let is_owner = is_owner(&app, &access.caller, user).await?;
    prove_for_owner(&app, &access.caller, is_owner || body.role == Role::Owner.into())?;
    let change = ChangeRole { actor, user, role: body.role, cooldown: app.auth.resend_cooldown };
    let given = access.caller.commit(&app, &change).await?;
    Ok(Answer(MemberView::new(given.member, &CustomRole::all(app.store(), actor.scope).await?)))
}

/// Remove a member.
///
/// Their sessions in the tenant end at once; they are told by mail. Refused as `role_too_high`
/// (403) when they may do what one may not oneself, and as `last_owner` (409) when nobody would own
/// the tenant then.
#[utoipa::path(
    delete, path = "/api/tenant/users/{id}", tag = "Members",
    responses((status = 204, description = "They are no member any more."))
)]
pub(crate) async fn remove(
    access: Requires<UsersDelete>,
    State(app): State<App>,
    PathId(user): PathId<UserId>,
) -> Result<StatusCode, Problem> {
    prove_for_owner(&app, &access.caller, is_owner(&app, &access.caller, user).await?)?;
    access.caller.commit(&app, &RemoveMember { actor: access.caller.actor(), user }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Leave the tenant.
///
/// One's sessions in it end at once; those in other tenants go on. Refused as `last_owner` (409)
/// when nobody would own the tenant then.
#[utoipa::path(
    delete, path = "/api/tenant/users/me", tag = "Members",
    responses((status = 204, description = "One is no member any more."))
)]
pub(crate) async fn leave(caller: Caller, State(app): State<App>) -> Result<Response, Problem> {
    prove_for_owner(&app, &caller, caller.membership.role == Role::Owner.into())?;
    caller.commit(&app, &LeaveTenant { scope: caller.scope(), user: caller.user.id }).await?;
    Ok(signed_out())
}

async fn is_owner(app: &App, caller: &Caller, user: UserId) -> Result<bool, Problem> {
    let membership = Membership::of(app.store(), caller.scope(), user).await?;
    Ok(membership.is_some_and(|membership| membership.role == Role::Owner.into()))
}

/// Who makes and unmakes owners proved of late who they are: a session that was stolen must not be
/// enough.
pub(crate) fn prove_for_owner(app: &App, caller: &Caller, is_owner: bool) -> Result<(), Problem> {
    let is_allowed = caller.membership.role == Role::Owner.into();
    if is_owner && is_allowed && !is_recent(&caller.session, app) {
        Err(Problem::reauthentication_required())
    } else {
        Ok(())
    }
}
