//! Inviting people into the tenant, one by one and many at once.

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{
    clock::rfc3339,
    email::Email,
    id::{self, InvitationId, InvitationListId},
    origin::Principal,
};
use domain::{
    access::throttle::Act,
    tenancy::{
        custom_roles::CustomRole,
        invitation_lists::{InvitationList, LINES_MAX, Line},
        invitations::{
            CancelInvitation, Conditions, Invitation, Invite, InviteList, Resend, Terms,
        },
        roles::{Role, RoleRef},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use super::members::{prove_for_owner, role_name};
use crate::{
    extract::{
        Client, Cursor, Fields, FromFields, Json, Paging, PathId, Query, Requires, UsersInvite,
    },
    problem::Problem,
    state::App,
    throttle::Guard,
};

/// An invitation that waits to be accepted.
#[derive(Serialize, ToSchema)]
#[schema(as = Invitation)]
pub(crate) struct InvitationView {
    /// Its id.
    #[schema(value_type = String, example = "inv_0192a0b8c0de7000800000000000cafe")]
    id: InvitationId,
    /// Who is invited.
    #[schema(value_type = String, format = "email", example = "ada@example.com")]
    email: Email,
    /// As what.
    #[schema(value_type = String, example = "member")]
    role: RoleRef,
    /// What the role is called.
    #[schema(example = "Member")]
    role_name: String,
    /// Who invited them.
    #[schema(value_type = String, example = "usr_0192a0b8c0de7000800000000000cafe")]
    invited_by: Principal,
    /// Since when.
    #[schema(format = DateTime)]
    created_at: String,
    /// When the link was last sent.
    #[schema(format = DateTime)]
    sent_at: String,
    /// Until when it can be accepted.
    #[schema(format = DateTime)]
    expires_at: String,
}

impl InvitationView {
    fn new(invitation: Invitation, roles: &[CustomRole]) -> Self {
        Self {
            id: invitation.id,
            role_name: role_name(invitation.role, roles),
            role: invitation.role,
            email: invitation.email,
            invited_by: invitation.invited_by,
            created_at: rfc3339(invitation.created_at),
            sent_at: rfc3339(invitation.sent_at),
            expires_at: rfc3339(invitation.expires_at),
        }
    }
}

/// An invitation that was sent.
#[derive(Serialize, ToSchema)]
pub(crate) struct Sent {
    /// The invitation.
    invitation: InvitationView,
}

impl Sent {
    async fn new(
        app: &App,
        invitation: Invitation,
        access: &Requires<UsersInvite>,
    ) -> Result<Self, Problem> {
        let roles = CustomRole::all(app.store(), access.caller.scope()).await?;
        Ok(Self { invitation: InvitationView::new(invitation, &roles) })
    }
}

/// Invitations.
#[derive(Serialize, ToSchema)]
pub(crate) struct Invitations {
    /// Those that wait, in the order in which they were made.
    items: Vec<InvitationView>,
    /// Where the list goes on, if there may be more.
    #[schema(value_type = Option<String>)]
    next_cursor: Option<Cursor<id::Invitation>>,
}

/// Who is to be invited, and as what.
#[derive(ToSchema)]
pub(crate) struct InviteBody {
    /// Their address.
    #[schema(value_type = String, format = "email", max_length = 254, example = "ada@example.com")]
    email: Email,
    /// Their role: a built-in one, or the id of one of the tenant's own.
    #[schema(value_type = String, example = "member")]
    role: RoleRef,
}

impl FromFields for InviteBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (email, role) = (fields.required("email"), fields.required("role"));
        Some(Self { email: email?, role: role? })
    }
}

/// Which part of the list is wanted.
pub(crate) struct Wanted(Paging<id::Invitation>);

impl FromFields for Wanted {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self(Paging::read(fields)))
    }
}

/// How this installation lets tenants invite.
fn conditions(app: &App) -> Conditions {
    let members = &app.members;
    Conditions {
        terms: Terms { ttl: members.invitation_ttl, max: members.invitations_max },
        reminder: members.invitation_reminder,
    }
}

/// Invite somebody.
///
/// They are mailed a link; an address that is invited already is sent another, which voids the one
/// before. Refused as `role_too_high` (403) when the role may do what one may not oneself, as
/// `already_member` (409), as `email_domain_not_allowed` (422) when the tenant's rules do not name
/// the address' domain, and as `too_many_invitations` (409) when as many wait as may.
#[utoipa::path(
    post, path = "/api/tenant/users/invite", tag = "Invitations", request_body = InviteBody,
    responses((status = 201, description = "Invited.", body = Sent))
)]
pub(crate) async fn invite(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    client: Client,
    Json(body): Json<InviteBody>,
) -> Result<Response, Problem> {
    let InviteBody { email, role } = body;
    let _counted = Guard::of_address(&app, Act::Invite, &email, &client).admit().await?;
    prove_for_owner(&app, &access.caller, role == Role::Owner.into())?;
    let invite = Invite {
        key: &app.key,
        actor: access.caller.actor(),
        email,
        role,
        conditions: conditions(&app),
    };
    let invitation = access.caller.commit(&app, &invite).await?;
    Ok((StatusCode::CREATED, Answer(Sent::new(&app, invitation, &access).await?)).into_response())
}

/// List the invitations that wait.
#[utoipa::path(
    get, path = "/api/tenant/invitations", tag = "Invitations",
    params(
        ("limit" = Option<u32>, Query, description = "How many at most, 1 to 100; 25 when not given."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before."),
    ),
    responses((status = 200, description = "The invitations.", body = Invitations))
)]
pub(crate) async fn list(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    Query(Wanted(paging)): Query<Wanted>,
) -> Result<Answer<Invitations>, Problem> {
    let scope = access.caller.scope();
    let mut found = Invitation::page(app.store(), scope, paging.after, paging.limit + 1).await?;
    let has_more = found.len() > paging.limit;
    found.truncate(paging.limit);
    let next_cursor = found.last().filter(|_| has_more).map(|last| Cursor(last.id));
    let roles = CustomRole::all(app.store(), scope).await?;
    let items =
        found.into_iter().map(|invitation| InvitationView::new(invitation, &roles)).collect();
    Ok(Answer(Invitations { items, next_cursor }))
}

/// Take an invitation back.
#[utoipa::path(
    delete, path = "/api/tenant/invitations/{id}", tag = "Invitations",
    responses((status = 204, description = "Its link is void."))
)]
pub(crate) async fn cancel(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    PathId(invitation): PathId<InvitationId>,
) -> Result<StatusCode, Problem> {
    access
        .caller
        .commit(&app, &CancelInvitation { actor: access.caller.actor(), invitation })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Send an invitation again.
///
/// The new link voids the one before, and waits for the whole time. From now on the invitation is
/// one's own word.
#[utoipa::path(
    post, path = "/api/tenant/invitations/{id}/resend", tag = "Invitations",
    responses((status = 200, description = "Sent again.", body = Sent))
)]
pub(crate) async fn resend(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    client: Client,
    PathId(invitation): PathId<InvitationId>,
) -> Result<Answer<Sent>, Problem> {
    let actor = access.caller.actor();
    let _counted =
        Guard::of_account(&app, Act::Invite, &invitation.to_string(), &client).admit().await?;
    let invitation = access
        .caller
        .commit(&app, &Resend { key: &app.key, actor, invitation, conditions: conditions(&app) })
        .await?;
    Ok(Answer(Sent::new(&app, invitation, &access).await?))
}

/// Many people to invite.
#[derive(ToSchema)]
pub(crate) struct ListBody {
    /// Who, and as what; up to 1000. Each is looked at for itself, so one that is no good holds up
    /// no other.
    #[schema(value_type = Vec<LineBody>)]
    invitations: Vec<Line>,
}

/// Who is to be invited, and as what.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read into a line")]
pub(crate) struct LineBody {
    /// Their address.
    #[schema(example = "ada@example.com")]
    email: String,
    /// Their role: a built-in one, or the id of one of the tenant's own.
    #[schema(example = "member")]
    role: String,
}

impl FromFields for ListBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let line = |item: &mut Fields| {
            let (email, role) = (item.required_text("email"), item.required_text("role"));
            Some(Line::new(&email?, &role?))
        };
        Some(Self { invitations: fields.required_objects("invitations", LINES_MAX, line)? })
    }
}

/// What became of a list.
#[derive(Serialize, ToSchema)]
#[schema(as = InvitationList)]
pub(crate) struct ListView {
    /// Its id.
    #[schema(value_type = String, example = "ivl_0192a0b8c0de7000800000000000cafe")]
    id: InvitationListId,
    /// How many lines it has.
    total: usize,
    /// How many of them are done with.
    done: usize,
    /// Each line, in the order given.
    items: Vec<LineView>,
    /// Since when.
    #[schema(format = DateTime)]
    created_at: String,
    /// When nothing was left to do.
    #[schema(format = DateTime)]
    completed_at: Option<String>,
}

/// What became of one of a list.
#[derive(Serialize, ToSchema)]
#[schema(as = InvitationListLine)]
pub(crate) struct LineView {
    /// Which line, from 1.
    line: usize,
    /// Who was to be invited.
    email: String,
    /// As what.
    role: String,
    /// `pending`, `invited`, or why they were not: `invalid_email`, `duplicate`, `no_such_role`,
    /// `role_too_high`, `already_member`, `too_many_invitations`, `email_domain_not_allowed` or
    /// `failed`.
    #[schema(value_type = String, example = "invited")]
    status: &'static str,
    /// The invitation, where there is one.
    #[schema(value_type = Option<String>, example = "inv_0192a0b8c0de7000800000000000cafe")]
    invitation_id: Option<InvitationId>,
}

impl From<InvitationList> for ListView {
    fn from(list: InvitationList) -> Self {
        let done = list.lines.iter().filter(|line| line.outcome.is_some()).count();
        let view = |(at, line): (usize, Line)| LineView {
            line: at + 1,
            status: line
                .outcome
                .map_or("pending", domain::tenancy::invitation_lists::Outcome::as_str),
            email: line.email,
            role: line.role,
            invitation_id: line.invitation,
        };
        Self {
            id: list.id,
            total: list.lines.len(),
            done,
            items: list.lines.into_iter().enumerate().map(view).collect(),
            created_at: rfc3339(list.created_at),
            completed_at: list.completed_at.map(rfc3339),
        }
    }
}

/// Invite many.
///
/// They are invited in the background, each as if alone; look at the list to see what became of
/// each.
#[utoipa::path(
    post, path = "/api/tenant/invitations/bulk", tag = "Invitations", request_body = ListBody,
    responses((status = 202, description = "They will be invited.", body = ListView))
)]
pub(crate) async fn invite_list(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    Json(body): Json<ListBody>,
) -> Result<Response, Problem> {
    prove_for_owner(
        &app,
        &access.caller,
        body.invitations.iter().any(|line| line.role == Role::Owner.as_str()),
    )?;
    let list = access
        .caller
        .commit(&app, &InviteList { actor: access.caller.actor(), lines: body.invitations })
        .await?;
    Ok((StatusCode::ACCEPTED, Answer(ListView::from(list))).into_response())
}

/// See what became of a list.
#[utoipa::path(
    get, path = "/api/tenant/invitations/bulk/{id}", tag = "Invitations",
    responses((status = 200, description = "The list.", body = ListView))
)]
pub(crate) async fn list_progress(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    PathId(list): PathId<InvitationListId>,
) -> Result<Answer<ListView>, Problem> {
    let list = InvitationList::of(app.store(), access.caller.scope(), list).await?;
    Ok(Answer(list.ok_or_else(Problem::no_such_list)?.into()))
}
