//! Invite links: managing them, and following one.

use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{clock::Timestamp, email::Email, id::InviteLinkId, name::Name, origin::Principal};
use domain::{
    access::throttle::{Act, TooMany},
    identity::joining::JoinError,
    tenancy::{
        custom_roles::CustomRole,
        invite_links::{
            CreateInviteLink, Created, DeleteInviteLink, FollowInviteLink, InviteLink,
            InviteLinkError, LINK_DOMAINS_MAX,
        },
        roles::{Grant, RoleRef},
        tenant_security::{EmailDomain, EmailDomains},
        tenants::{Tenant, TenantStatus},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::{InvitationRequested, page::List, reply},
    extract::{
        Agent, Client, Fields, FromFields, Idempotency, Json, Open, PathId, Requires, UsersInvite,
    },
    problem::{NotRecent, Problem, Refusals},
    state::App,
    throttle::Guard,
};

/// Path of the page that links lead to.
pub(crate) const PAGE: &str = "/invite-links/join";

/// A link with which people with an email address at certain domains can request an invitation.
#[derive(Serialize, ToSchema)]
#[schema(as = InviteLink)]
pub(crate) struct LinkView {
    id: InviteLinkId,
    /// `good`, or `void` while its creator may not invite people with the role.
    #[schema(example = "good")]
    status: &'static str,
    /// The link to share. Null if the caller may not invite people with the role.
    #[schema(
        required = true,
        example = "https://app.example.com/invite-links/join?token=AZKguMDecACAAAAAAADK_g"
    )]
    url: Option<String>,
    role: RoleRef,
    /// Name of the role.
    #[schema(example = "Member")]
    role_name: String,
    /// Email domains that can use the link.
    domains: EmailDomains,
    created_by: Principal,
    created_at: Timestamp,
    expires_at: Timestamp,
}

impl LinkView {
    /// The link as the caller may see it.
    async fn new(
        app: &App,
        caller: &Agent,
        link: InviteLink,
        roles: &[CustomRole],
    ) -> Result<Self, Problem> {
        let (given, vouched) = futures::try_join!(
            Grant::of(app.store(), caller.scope(), link.role),
            link.grant(app.store())
        )?;
        let url = caller.reaches(&given).then(|| url_of(app, &link));
        let role_name = link.role.label(roles);
        let status = if vouched.is_some() { "good" } else { "void" };
        Ok(Self { status, ..Self::with(link, url, role_name) })
    }

    /// A link that the caller has just created, so that they may invite people with its role.
    fn created(app: &App, Created { link, role_name }: Created) -> Self {
        let url = url_of(app, &link);
        Self::with(link, Some(url), role_name)
    }

    fn with(link: InviteLink, url: Option<String>, role_name: String) -> Self {
        Self {
            status: "good",
            url,
            id: link.id,
            role_name,
            role: link.role,
            domains: link.domains,
            created_by: link.created_by,
            created_at: link.created_at.into(),
            expires_at: link.expires_at.into(),
        }
    }
}

/// The link to share.
fn url_of(app: &App, link: &InviteLink) -> String {
    format!("{}{PAGE}?token={}", app.public_url, link.token(&app.key).link_text())
}

#[derive(ToSchema)]
#[schema(as = NewInviteLink)]
pub(crate) struct LinkBody {
    /// Any role except owner.
    role: RoleRef,
    /// Email domains that can use the link: 1 to 20.
    domains: EmailDomains,
}

impl FromFields for LinkBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (role, domains) = (
            fields.required("role"),
            fields.required_some::<EmailDomain>("domains", LINK_DOMAINS_MAX),
        );
        Some(Self { role: role?, domains: domains?.into_iter().collect() })
    }
}

/// Create an invite link
///
/// People with an email address at one of the link's domains can use it to request an invitation,
/// which they receive by email. The link stops working when its creator may no longer invite people
/// with its role. The role owner is not allowed. Recent authentication is required for a role that
/// can change members, roles, security rules or API keys.
#[utoipa::path(
    post, path = "/api/tenant/invite-links", tag = "Invitations", request_body = LinkBody,
    responses(
        (status = 201, description = "Created.", body = LinkView),
        Refusals<(InviteLinkError, NotRecent)>,
    )
)]
pub(crate) async fn create(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    once: Idempotency,
    Json(body): Json<LinkBody>,
) -> Result<Response, Problem> {
    let LinkBody { role, domains } = body;
    let (actor, members) = (access.caller.actor(), &app.members);
    let create = CreateInviteLink {
        actor,
        role,
        domains,
        ttl: members.invite_link_ttl,
        max: members.invite_links_max,
    };
    let created = |created| reply::created(&LinkView::created(&app, created));
    access.commit_once(&app, once, &create, created).await
}

/// List invite links
///
/// Lists the links that have not expired, in the order in which they were created.
#[utoipa::path(
    get, path = "/api/tenant/invite-links", tag = "Invitations",
    responses((status = 200, description = "The links.", body = List<LinkView>))
)]
pub(crate) async fn list(
    access: Requires<UsersInvite>,
    State(app): State<App>,
) -> Result<Answer<List<LinkView>>, Problem> {
    let scope = access.caller.scope();
    let (links, roles) = futures::try_join!(
        InviteLink::all(app.store(), scope),
        CustomRole::all(app.store(), scope)
    )?;
    let items = links.into_iter().map(|link| LinkView::new(&app, &access.caller, link, &roles));
    Ok(Answer(futures::future::try_join_all(items).await?.into_iter().collect()))
}

/// Delete an invite link
///
/// The link stops working. Invitations that were sent because of it remain valid.
#[utoipa::path(
    delete, path = "/api/tenant/invite-links/{id}", tag = "Invitations",
    responses((status = 204, description = "Deleted."), Refusals<InviteLinkError>)
)]
pub(crate) async fn delete(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    PathId(link): PathId<InviteLinkId>,
) -> Result<StatusCode, Problem> {
    access.commit(&app, &DeleteInviteLink { actor: access.caller.actor(), link }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The tenant, the role and the domains of an invite link.
#[derive(Serialize, ToSchema)]
#[schema(as = InviteLinkPreview)]
pub(crate) struct Preview {
    tenant_name: Name,
    role: RoleRef,
    /// Name of the role.
    #[schema(example = "Member")]
    role_name: String,
    /// Email domains that can use the link.
    domains: EmailDomains,
    expires_at: Timestamp,
}

impl Preview {
    /// The tenant, the role and the domains of the link with this token.
    pub(crate) async fn of(app: &App, client: &Client, token: &str) -> Result<Self, Problem> {
        let Good { link, given, tenant } = good(app, client, token).await?;
        Ok(Self {
            tenant_name: tenant.name,
            role: link.role,
            role_name: given.name,
            domains: link.domains,
            expires_at: link.expires_at.into(),
        })
    }
}

/// A valid link, the role that it grants, and its tenant.
struct Good {
    link: InviteLink,
    given: Grant,
    tenant: Tenant,
}

/// The link with this token. Guessing tokens is throttled.
async fn good(app: &App, client: &Client, token: &str) -> Result<Good, Problem> {
    let counted = Guard::of_network(app, Act::FollowInvitation, client).admit().await?;
    let link =
        InviteLink::by_token(app.store(), &app.key, token).await?.ok_or(JoinError::TokenInvalid)?;
    app.throttle.take_back(counted).await;
    let (given, tenant) =
        futures::try_join!(link.grant(app.store()), Tenant::of(app.store(), link.actor().scope))?;
    let tenant = tenant.filter(|tenant| tenant.status == TenantStatus::Active);
    let (Some(given), Some(tenant)) = (given, tenant) else {
        return Err(JoinError::TokenInvalid.into());
    };
    Ok(Good { link, given, tenant })
}

/// Preview an invite link
///
/// Returns the tenant, the role and the domains of the link. The link remains valid.
#[utoipa::path(
    get, path = "/api/invite-links/{token}", tag = "Invitations",
    params(("token" = String, Path, description = "The `token` of the link.")),
    responses(
        (status = 200, description = "The tenant, the role and the domains.", body = Preview),
        Refusals<(JoinError, TooMany)>,
    )
)]
pub(crate) async fn preview(
    _: Open,
    State(app): State<App>,
    client: Client,
    Path(token): Path<String>,
) -> Result<Answer<Preview>, Problem> {
    Preview::of(&app, &client, &token).await.map(Answer)
}

#[derive(ToSchema)]
pub(crate) struct JoinBody {
    /// The `token` of the link.
    token: String,
    /// Email address at one of the link's domains.
    email: Email,
}

impl FromFields for JoinBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (token, email) = (fields.required_text("token"), fields.required("email"));
        Some(Self { token: token?, email: email? })
    }
}

/// Join with an invite link
///
/// Sends an invitation to the email address, or resends its pending one. Existing members are
/// notified that they are already members; former members are not invited and must ask a member.
/// Emails to one email address are at least a minute apart. The response is the same for every
/// email address at the link's domains.
#[utoipa::path(
    post, path = "/api/invite-links/join", tag = "Invitations", request_body = JoinBody,
    responses(
        (status = 202, description = "An invitation will be sent.", body = InvitationRequested),
        Refusals<(JoinError, TooMany)>,
    )
)]
pub(crate) async fn join(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<JoinBody>,
) -> Result<Response, Problem> {
    follow(&app, &client, &body.token, &body.email).await?;
    Ok((StatusCode::ACCEPTED, Answer(InvitationRequested::SENT)).into_response())
}

/// Requests an invitation for an email address. The result reveals no more than the preview of the
/// link; a job does the rest.
pub(crate) async fn follow(
    app: &App,
    client: &Client,
    token: &str,
    email: &Email,
) -> Result<(), Problem> {
    let Good { link, tenant, .. } = good(app, client, token).await?;
    if !link.is_for(email) || !tenant.security.allowed_email_domains.admit(email) {
        return Err(Problem::not_of_link());
    }
    let _counted = Guard::of_mailbox(app, Act::FollowInviteLink, email, client).admit().await?;
    let follow = FollowInviteLink::new(&app.key, &link, email, app.auth.resend_cooldown);
    Ok(app
        .jobs
        .commit(&client.origin(), &follow.map_err(|error| Problem::internal(&error))?)
        .await?)
}
