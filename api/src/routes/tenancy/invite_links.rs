//! Invite links: making them, and following one.

use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{clock::rfc3339, email::Email, id::InviteLinkId, name::Name, origin::Principal};
use domain::{
    access::throttle::Act,
    tenancy::{
        custom_roles::CustomRole,
        invite_links::{
            CreateInviteLink, DeleteInviteLink, FollowInviteLink, InviteLink, LINK_DOMAINS_MAX,
        },
        joining::JoinError,
        roles::{Grant, RoleRef},
        tenant_security::{EmailDomain, EmailDomains},
        tenants::{Tenant, TenantStatus},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use super::members::role_name;
use crate::{
    extract::{Caller, Client, Fields, FromFields, Json, Open, PathId, Requires, UsersInvite},
    problem::Problem,
    state::App,
    throttle::Guard,
};

/// The page that a link leads to.
pub(crate) const PAGE: &str = "/invite-links/join";

/// A link by which the people of some domains have themselves invited.
#[derive(Serialize, ToSchema)]
#[schema(as = InviteLink)]
pub(crate) struct LinkView {
    /// Its id.
    #[schema(value_type = String, example = "ilk_0192a0b8c0de7000800000000000cafe")]
    id: InviteLinkId,
    /// `good`, or `void` while whoever made it may not invite to the role.
    #[schema(value_type = String, example = "good")]
    status: &'static str,
    /// Where it leads: to be passed on. Null for whoever may not invite to the role.
    #[schema(
        required = true,
        example = "https://app.example.com/invite-links/join?token=AZKguMDecACAAAAAAADK_g"
    )]
    url: Option<String>,
    /// As what it invites.
    #[schema(value_type = String, example = "member")]
    role: RoleRef,
    /// What the role is called.
    #[schema(example = "Member")]
    role_name: String,
    /// The domains whose addresses it invites, without their subdomains.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 20, example = json!(["example.com"]))]
    domains: EmailDomains,
    /// Whose word it is: void while they may not invite to the role.
    #[schema(value_type = String, example = "usr_0192a0b8c0de7000800000000000cafe")]
    created_by: Principal,
    /// Since when.
    #[schema(format = DateTime)]
    created_at: String,
    /// Until when it is good.
    #[schema(format = DateTime)]
    expires_at: String,
}

impl LinkView {
    /// As the caller may see it.
    async fn new(
        app: &App,
        caller: &Caller,
        link: InviteLink,
        roles: &[CustomRole],
    ) -> Result<Self, Problem> {
        let (given, vouched) = futures::try_join!(
            Grant::of(app.store(), caller.scope(), link.role),
            link.grant(app.store())
        )?;
        let url = || format!("{}{PAGE}?token={}", app.public_url, link.token(&app.key).expose());
        Ok(Self {
            status: if vouched.is_some() { "good" } else { "void" },
            url: caller.grant.reaches(&given).then(url),
            id: link.id,
            role_name: role_name(link.role, roles),
            role: link.role,
            domains: link.domains,
            created_by: link.created_by,
            created_at: rfc3339(link.created_at),
            expires_at: rfc3339(link.expires_at),
        })
    }
}

/// Invite links.
#[derive(Serialize, ToSchema)]
pub(crate) struct InviteLinks {
    /// Those that have not expired, in the order in which they were made.
    items: Vec<LinkView>,
}

/// Whom a link is to invite, and as what.
#[derive(ToSchema)]
pub(crate) struct LinkBody {
    /// The role: a built-in one but owner, or the id of one of the tenant's own.
    #[schema(value_type = String, example = "member")]
    role: RoleRef,
    /// The domains whose addresses it invites, without their subdomains.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 20, example = json!(["example.com"]))]
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

/// Make an invite link.
///
/// Whoever has it gives an address of one of its domains, and that address is mailed an invitation
/// to the role, on one's own word: it is void while one may not invite to the role any more.
/// Refused as `role_too_high` (403) when the role may do what one may not oneself, as
/// `email_domain_not_allowed` (422) when the tenant's rules do not name one of the domains, and as
/// `too_many_invite_links` (409) when the tenant has as many as it may. Nobody becomes an owner by
/// a link (422).
#[utoipa::path(
    post, path = "/api/tenant/invite-links", tag = "Invitations", request_body = LinkBody,
    responses((status = 201, description = "Made.", body = LinkView))
)]
pub(crate) async fn create(
    access: Requires<UsersInvite>,
    State(app): State<App>,
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
    let link = access.caller.commit(&app, &create).await?;
    let roles = CustomRole::all(app.store(), access.caller.scope()).await?;
    Ok((StatusCode::CREATED, Answer(LinkView::new(&app, &access.caller, link, &roles).await?))
        .into_response())
}

/// List the invite links.
#[utoipa::path(
    get, path = "/api/tenant/invite-links", tag = "Invitations",
    responses((status = 200, description = "The links.", body = InviteLinks))
)]
pub(crate) async fn list(
    access: Requires<UsersInvite>,
    State(app): State<App>,
) -> Result<Answer<InviteLinks>, Problem> {
    let scope = access.caller.scope();
    let (links, roles) = futures::try_join!(
        InviteLink::all(app.store(), scope),
        CustomRole::all(app.store(), scope)
    )?;
    let items = links.into_iter().map(|link| LinkView::new(&app, &access.caller, link, &roles));
    Ok(Answer(InviteLinks { items: futures::future::try_join_all(items).await? }))
}

/// Void an invite link.
///
/// Invitations that it led to stay; they are cancelled one by one.
#[utoipa::path(
    delete, path = "/api/tenant/invite-links/{id}", tag = "Invitations",
    responses((status = 204, description = "It is void."))
)]
pub(crate) async fn delete(
    access: Requires<UsersInvite>,
    State(app): State<App>,
    PathId(link): PathId<InviteLinkId>,
) -> Result<StatusCode, Problem> {
    access.caller.commit(&app, &DeleteInviteLink { actor: access.caller.actor(), link }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What an invite link invites to.
#[derive(Serialize, ToSchema)]
#[schema(as = InviteLinkPreview)]
pub(crate) struct Preview {
    /// What the tenant is called.
    #[schema(value_type = String, example = "Analytical Engines")]
    tenant_name: Name,
    /// As what it invites.
    #[schema(value_type = String, example = "member")]
    role: RoleRef,
    /// What the role is called.
    #[schema(example = "Member")]
    role_name: String,
    /// The domains whose addresses it invites, without their subdomains.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 20, example = json!(["example.com"]))]
    domains: EmailDomains,
    /// Until when it is good.
    #[schema(format = DateTime)]
    expires_at: String,
}

impl Preview {
    /// What a link's token is for.
    pub(crate) async fn of(app: &App, client: &Client, token: &str) -> Result<Self, Problem> {
        let Good { link, given, tenant } = good(app, client, token).await?;
        Ok(Self {
            tenant_name: tenant.name,
            role: link.role,
            role_name: given.name,
            domains: link.domains,
            expires_at: rfc3339(link.expires_at),
        })
    }
}

/// A link that is good, what it gives and whose it is.
struct Good {
    link: InviteLink,
    given: Grant,
    tenant: Tenant,
}

/// The link that a token is of. Whoever makes tokens up is throttled.
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

/// See what an invite link invites to.
///
/// A token that is wrong, void or expired is refused as `token_invalid`, and who tries too many of
/// them as `too_many_attempts` (429).
#[utoipa::path(
    get, path = "/api/invite-links/{token}", tag = "Invitations",
    params(("token" = String, Path, description = "The `token` of the link.")),
    responses((status = 200, description = "The link.", body = Preview))
)]
pub(crate) async fn preview(
    _: Open,
    State(app): State<App>,
    client: Client,
    Path(token): Path<String>,
) -> Result<Answer<Preview>, Problem> {
    Preview::of(&app, &client, &token).await.map(Answer)
}

/// Who wants to be invited.
#[derive(ToSchema)]
pub(crate) struct JoinBody {
    /// The `token` of the link.
    token: String,
    /// Their address, of one of the link's domains.
    #[schema(value_type = String, format = "email", max_length = 254, example = "ada@example.com")]
    email: Email,
}

impl FromFields for JoinBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (token, email) = (fields.required_text("token"), fields.required("email"));
        Some(Self { token: token?, email: email? })
    }
}

/// How far somebody is who asked to be invited.
#[derive(Serialize, ToSchema)]
#[schema(as = InvitationProgress)]
pub(crate) struct Progress {
    /// `invitation_email_sent`.
    #[schema(value_type = String, example = "invitation_email_sent")]
    status: &'static str,
}

impl Progress {
    /// A mail is on its way.
    pub(crate) const SENT: Self = Self { status: "invitation_email_sent" };
}

/// Have oneself invited by an invite link.
///
/// Mails the address an invitation, or once more the one that waits for it; a member is told by
/// mail that they are one, and whoever was a member once is not: somebody there invites them. Mails
/// to one address are at least a minute apart; what is asked for sooner is not sent. The answer is
/// the same for every address of the link's domains; one of another domain is refused as
/// `email_domain_not_allowed` (422), a token that is wrong, void or expired as `token_invalid`, and
/// who asks too often as `too_many_attempts` (429).
#[utoipa::path(
    post, path = "/api/invite-links/join", tag = "Invitations", request_body = JoinBody,
    responses((status = 202, description = "A mail is on its way.", body = Progress))
)]
pub(crate) async fn join(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<JoinBody>,
) -> Result<Response, Problem> {
    follow(&app, &client, &body.token, &body.email).await?;
    Ok((StatusCode::ACCEPTED, Answer(Progress::SENT)).into_response())
}

/// Has an address invited. All that can be told apart here is what the link's preview tells; the
/// rest is done by a job.
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
    let _counted = Guard::of_address(app, Act::FollowInviteLink, email, client).admit().await?;
    let follow = FollowInviteLink::new(&app.key, &link, email, app.auth.resend_cooldown);
    Ok(app
        .jobs
        .commit(&client.origin(), &follow.map_err(|error| Problem::internal(&error))?)
        .await?)
}
