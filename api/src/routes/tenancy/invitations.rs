//! Invitations to the tenant, individually and in lists.

use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use common::{
    clock::Timestamp,
    email::Email,
    id::{self, InvitationId, InvitationListId},
    origin::Principal,
};
use domain::{
    access::throttle::{Act, TooMany},
    tenancy::{
        custom_roles::CustomRole,
        invitation_lists::{InvitationList, LINES_MAX, Line, ListError, ListLimits},
        invitations::{
            CancelInvitation, Conditions, Invitation, Invite, InviteError, InviteList, Resend,
            Terms,
        },
        roles::RoleRef,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::{page::Page, reply},
    extract::{
        Client, Fields, FromFields, Idempotency, Json, PageQuery, PathId, Requires, UsersInvite,
    },
    problem::{NoSuchInvitationList, NotRecent, Problem, Refusals},
    state::App,
    throttle::Guard,
};

/// A pending invitation.
#[derive(Serialize, ToSchema)]
#[schema(as = Invitation)]
pub(crate) struct InvitationView {
    id: InvitationId,
    /// Email address of the invited person.
    email: Email,
    role: RoleRef,
    /// Name of the role.
    #[schema(example = "Member")]
    role_name: String,
    invited_by: Principal,
    created_at: Timestamp,
    /// When the link was last sent.
    sent_at: Timestamp,
    expires_at: Timestamp,
}

impl InvitationView {
    fn new(invitation: Invitation, roles: &[CustomRole]) -> Self {
        Self {
            id: invitation.id,
            role_name: invitation.role.label(roles),
            role: invitation.role,
            email: invitation.email,
            invited_by: invitation.invited_by,
            created_at: invitation.created_at.into(),
            sent_at: invitation.sent_at.into(),
            expires_at: invitation.expires_at.into(),
        }
    }
}

/// An invitation that was sent.
#[derive(Serialize, ToSchema)]
#[schema(as = SentInvitation)]
pub(crate) struct Sent {
    invitation: InvitationView,
}

impl Sent {
    fn new(invitation: Invitation, roles: &[CustomRole]) -> Self {
        Self { invitation: InvitationView::new(invitation, roles) }
    }
}

#[derive(ToSchema)]
pub(crate) struct InviteBody {
    email: Email,
    role: RoleRef,
}

impl FromFields for InviteBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (email, role) = (fields.required("email"), fields.required("role"));
        Some(Self { email: email?, role: role? })
    }
}

/// The configured terms of invitations.
fn conditions(app: &App) -> Conditions {
    let (members, budget) = (&app.members, app.mail_budget);
    Conditions {
        terms: Terms { ttl: members.invitation_ttl, max: members.invitations_max, budget },
        reminder: members.invitation_reminder,
    }
}

/// Invite someone
///
/// Sends an invitation by email. If the email address already has a pending invitation, it is sent
/// again with a new link and the previous link stops working. Recent authentication is required for
/// a role that can change members, roles, security rules or API keys.
#[utoipa::path(
    post, path = "/api/tenant/users/invite", tag = "Invitations", request_body = InviteBody,
    responses(
        (status = 201, description = "Invited.", body = Sent),
        Refusals<(InviteError, TooMany, NotRecent)>,
    )
)]
pub(crate) async fn invite(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    once: Idempotency,
    client: Client,
    Json(body): Json<InviteBody>,
) -> Result<Response, Problem> {
    let InviteBody { email, role } = body;
    let _counted = Guard::of_network(&app, Act::Invite, &client).admit().await?;
    let invite = Invite {
        key: &app.key,
        actor: access.caller.actor(),
        email,
        role,
        conditions: conditions(&app),
    };
    let roles = CustomRole::all(app.store(), access.caller.scope()).await?;
    let sent = |invitation| reply::created(&Sent::new(invitation, &roles));
    access.commit_once(&app, once, &invite, sent).await
}

/// List pending invitations
///
/// Lists pending invitations in the order in which they were created.
#[utoipa::path(
    get, path = "/api/tenant/invitations", tag = "Invitations",
    responses((status = 200, description = "The invitations.", body = Page<InvitationView>))
)]
pub(crate) async fn list(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    query: PageQuery<id::Invitation>,
) -> Result<Answer<Page<InvitationView>>, Problem> {
    let scope = access.caller.scope();
    let mut found = Invitation::page(app.store(), scope, query.after, query.limit + 1).await?;
    let has_more = found.len() > query.limit;
    found.truncate(query.limit);
    let next = found.last().filter(|_| has_more).map(|last| last.id);
    let roles = CustomRole::all(app.store(), scope).await?;
    let items = found.into_iter().map(|invitation| InvitationView::new(invitation, &roles));
    Ok(Answer(Page::new(items, next)))
}

/// Cancel an invitation
///
/// The link of the invitation stops working.
#[utoipa::path(
    delete, path = "/api/tenant/invitations/{id}", tag = "Invitations",
    responses((status = 204, description = "Cancelled."), Refusals<InviteError>)
)]
pub(crate) async fn cancel(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    PathId(invitation): PathId<InvitationId>,
) -> Result<StatusCode, Problem> {
    access.commit(&app, &CancelInvitation { actor: access.caller.actor(), invitation }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Resend an invitation
///
/// Sends a new link, which is valid for the full period; the previous link stops working. From now
/// on, the invitation depends on the permissions of the caller. Recent authentication is required
/// for a role that can change members, roles, security rules or API keys.
#[utoipa::path(
    post, path = "/api/tenant/invitations/{id}/resend", tag = "Invitations",
    responses(
        (status = 200, description = "Sent again.", body = Sent),
        Refusals<(InviteError, TooMany, NotRecent)>,
    )
)]
pub(crate) async fn resend(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    once: Idempotency,
    client: Client,
    PathId(invitation): PathId<InvitationId>,
) -> Result<Response, Problem> {
    let actor = access.caller.actor();
    let _counted = Guard::of_network(&app, Act::Invite, &client).admit().await?;
    let resend = Resend { key: &app.key, actor, invitation, conditions: conditions(&app) };
    let roles = CustomRole::all(app.store(), access.caller.scope()).await?;
    let sent = |invitation| reply::ok(&Sent::new(invitation, &roles));
    access.commit_once(&app, once, &resend, sent).await
}

#[derive(ToSchema)]
pub(crate) struct ListBody {
    /// Up to 1000 invitations. An invalid one does not affect the others.
    #[schema(value_type = Vec<LineBody>)]
    invitations: Vec<Line>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read into a line")]
pub(crate) struct LineBody {
    email: Email,
    role: RoleRef,
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

/// Progress of a list of invitations.
#[derive(Serialize, ToSchema)]
#[schema(as = InvitationList)]
pub(crate) struct ListView {
    id: InvitationListId,
    /// Number of lines.
    total: usize,
    /// Number of lines that have been processed.
    done: usize,
    /// Each line, in the order given.
    items: Vec<LineView>,
    created_at: Timestamp,
    /// When all lines had been processed.
    completed_at: Option<Timestamp>,
}

/// Result of a line of a list.
#[derive(Serialize, ToSchema)]
#[schema(as = InvitationListLine)]
pub(crate) struct LineView {
    /// Number of the line, from 1.
    line: usize,
    /// Email address, as given.
    email: String,
    /// Role, as given.
    role: String,
    /// `pending`, `invited`, or the reason why the person was not invited: `invalid_email`, `duplicate`, `no_such_role`,
    /// `role_too_high`, `already_member`, `too_many_invitations`, `email_domain_not_allowed`,
    /// `mail_budget_exhausted` or `failed`.
    #[schema(example = "invited")]
    status: &'static str,
    /// The invitation that was sent.
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
            created_at: list.created_at.into(),
            completed_at: list.completed_at.map(Timestamp::from),
        }
    }
}

/// Invite many people
///
/// Accepts a list of invitations, which are sent in the background. Each line is checked on its
/// own: get the list to see the result of each line. Completed lists are kept for up to 30 days;
/// a new one may replace the oldest. The text of an invalid line is shortened. Recent
/// authentication is required if a line has a role that can change members, roles, security rules
/// or API keys.
#[utoipa::path(
    post, path = "/api/tenant/invitations/bulk", tag = "Invitations", request_body = ListBody,
    responses(
        (status = 202, description = "The invitations will be sent.", body = ListView),
        Refusals<(ListError, TooMany, NotRecent)>,
    )
)]
pub(crate) async fn invite_list(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    once: Idempotency,
    client: Client,
    Json(body): Json<ListBody>,
) -> Result<Response, Problem> {
    let lines = body.invitations;
    let _counted = Guard::of_network(&app, Act::Invite, &client).times(lines.len()).admit().await?;
    let members = &app.members;
    let limits = ListLimits {
        open_max: members.invitation_lists_open_max,
        lines_max: members.invitation_list_lines_max,
    };
    let invite =
        InviteList { actor: access.caller.actor(), lines, limits, budget: app.mail_budget };
    let accepted = |list| reply::accepted(&ListView::from(list));
    access.commit_once(&app, once, &invite, accepted).await
}

/// Get the progress of a list
#[utoipa::path(
    get, path = "/api/tenant/invitations/bulk/{id}", tag = "Invitations",
    responses((status = 200, description = "The list.", body = ListView), Refusals<NoSuchInvitationList>)
)]
pub(crate) async fn list_progress(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    PathId(list): PathId<InvitationListId>,
) -> Result<Answer<ListView>, Problem> {
    let list = InvitationList::of(app.store(), access.caller.scope(), list).await?;
    Ok(Answer(list.ok_or(NoSuchInvitationList)?.into()))
}
