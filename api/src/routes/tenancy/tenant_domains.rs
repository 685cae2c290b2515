//! Email domains of the tenant, and joining a tenant because of one.

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{
    clock::Timestamp,
    id::{TenantDomainId, TenantId},
    name::Name,
    origin::Principal,
};
use domain::{
    access::throttle::{Act, TooMany},
    identity::joining::JoinError,
    tenancy::{
        memberships::Membership,
        roles::{Grant, RoleRef},
        tenant_domains::{
            AddDomain, AskByDomain, CheckDomains, DomainError, RemoveDomain, SetAutoInvite,
            TenantDomain,
        },
        tenant_security::EmailDomain,
        tenants::{Tenant, TenantStatus},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::{InvitationRequested, page::List, reply},
    extract::{
        Account, Client, Fields, FromFields, Idempotency, Json, Nullable, PathId, Recent, Requires,
        SecurityWrite,
    },
    problem::{NotJoinable, Problem, Refusals},
    state::App,
    throttle::Guard,
};

/// An email domain of the tenant.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantDomain)]
pub(crate) struct DomainView {
    id: TenantDomainId,
    domain: EmailDomain,
    /// `pending` until the first check; then `verified`, `record_missing`, `no_answer` if the name
    /// servers do not answer, or `held_by_another` if another tenant has verified the domain.
    #[schema(example = "verified")]
    status: &'static str,
    record: DnsRecord,
    /// The role with which people at the domain are invited while it is verified; null if they are
    /// not invited.
    #[schema(required = true)]
    auto_invite_role: Option<RoleRef>,
    added_by: Principal,
    created_at: Timestamp,
    /// When its record was last checked.
    checked_at: Option<Timestamp>,
    verified_at: Option<Timestamp>,
    /// Since when its record is missing. The domain remains verified for a few days.
    missing_since: Option<Timestamp>,
    /// Since when its name servers have not answered. The domain remains verified for longer than
    /// without its record.
    unanswered_since: Option<Timestamp>,
}

/// The DNS record to publish, and to keep published.
#[derive(Serialize, ToSchema)]
pub(crate) struct DnsRecord {
    #[schema(example = "TXT")]
    r#type: &'static str,
    #[schema(example = "_tenantry.example.com")]
    name: String,
    #[schema(example = "tenantry-verification=AZKguMDecACAAAAAAADK_g")]
    value: String,
}

impl DomainView {
    fn new(app: &App, domain: TenantDomain) -> Self {
        Self {
            id: domain.id,
            record: DnsRecord {
                r#type: "TXT",
                name: domain.record_name(),
                value: domain.record_value(&app.key),
            },
            status: domain.status.as_str(),
            auto_invite_role: domain.auto_invite.map(|invite| invite.role),
            added_by: domain.added_by,
            created_at: domain.created_at.into(),
            checked_at: domain.checked_at.map(Timestamp::from),
            verified_at: domain.verified_at.map(Timestamp::from),
            missing_since: domain.missing_since.map(Timestamp::from),
            unanswered_since: domain.unanswered_since.map(Timestamp::from),
            domain: domain.domain,
        }
    }
}

#[derive(ToSchema)]
#[schema(as = NewTenantDomain)]
pub(crate) struct DomainBody {
    domain: EmailDomain,
}

impl FromFields for DomainBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { domain: fields.required("domain")? })
    }
}

/// List domains
///
/// Lists the domains in the order in which they were added.
#[utoipa::path(
    get, path = "/api/tenant/domains", tag = "Domains",
    responses((status = 200, description = "The domains.", body = List<DomainView>))
)]
pub(crate) async fn list(
    access: Requires<SecurityWrite>,
    State(app): State<App>,
) -> Result<Answer<List<DomainView>>, Problem> {
    let domains = TenantDomain::all(app.store(), access.caller.scope()).await?;
    Ok(Answer(domains.into_iter().map(|domain| DomainView::new(&app, domain)).collect()))
}

/// Add a domain
///
/// Publish the `record` in the domain's DNS, then have it checked with `POST
/// /api/tenant/domains/{id}/verify`.
#[utoipa::path(
    post, path = "/api/tenant/domains", tag = "Domains", request_body = DomainBody,
    responses((status = 201, description = "Added.", body = DomainView), Refusals<DomainError>)
)]
pub(crate) async fn add(
    access: Requires<SecurityWrite>,
    State(app): State<App>,
    once: Idempotency,
    Json(body): Json<DomainBody>,
) -> Result<Response, Problem> {
    let add = AddDomain {
        actor: access.caller.actor(),
        domain: body.domain,
        max: app.members.domains_max,
    };
    let added = |domain| reply::created(&DomainView::new(&app, domain));
    access.commit_once(&app, once, &add, added).await
}

/// Verify a domain
///
/// Checks the domain's DNS record in the background: poll the domain until `checked_at` has
/// changed. A verified domain is checked every day, and remains verified for a few days if its
/// record is missing.
#[utoipa::path(
    post, path = "/api/tenant/domains/{id}/verify", tag = "Domains",
    responses(
        (status = 202, description = "The record will be checked.", body = DomainView),
        Refusals<(DomainError, TooMany)>,
    )
)]
pub(crate) async fn verify(
    access: Requires<SecurityWrite>,
    State(app): State<App>,
    once: Idempotency,
    client: Client,
    PathId(domain): PathId<TenantDomainId>,
) -> Result<Response, Problem> {
    let domain = TenantDomain::of(app.store(), access.caller.scope(), domain)
        .await?
        .ok_or(DomainError::NotFound)?;
    let _counted =
        Guard::of_account(&app, Act::CheckDomain, &domain.id.to_string(), &client).admit().await?;
    let accepted = |()| reply::accepted(&DomainView::new(&app, domain.clone()));
    access.commit_once(&app, once, &CheckDomains::of([&domain]), accepted).await
}

#[derive(ToSchema)]
pub(crate) struct AutoInviteBody {
    /// Any role except owner; null for no automatic invitations.
    #[schema(required = true)]
    auto_invite_role: Option<RoleRef>,
}

impl FromFields for AutoInviteBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let Nullable(auto_invite_role) = fields.nullable("auto_invite_role")?;
        Some(Self { auto_invite_role })
    }
}

/// Set the automatic invitation of a domain
///
/// While the domain is verified, people with an email address there are invited with this role:
/// when they register, or on their request (`GET /api/auth/joinable-tenants`). Invitations stop
/// while the caller may not invite people with the role. The role owner is not allowed.
#[utoipa::path(
    put, path = "/api/tenant/domains/{id}", tag = "Domains", request_body = AutoInviteBody,
    responses((status = 200, description = "Changed.", body = DomainView), Refusals<DomainError>)
)]
pub(crate) async fn update(
    Recent(access): Recent<Requires<SecurityWrite>>,
    State(app): State<App>,
    PathId(domain): PathId<TenantDomainId>,
    Json(body): Json<AutoInviteBody>,
) -> Result<Answer<DomainView>, Problem> {
    let set = SetAutoInvite { actor: access.caller.actor(), domain, role: body.auto_invite_role };
    let domain = access.commit(&app, &set).await?;
    Ok(Answer(DomainView::new(&app, domain)))
}

/// Remove a domain
///
/// Invitations that were sent because of the domain remain valid. Another tenant can then verify
/// it.
#[utoipa::path(
    delete, path = "/api/tenant/domains/{id}", tag = "Domains",
    responses((status = 204, description = "Removed."), Refusals<DomainError>)
)]
pub(crate) async fn remove(
    access: Requires<SecurityWrite>,
    State(app): State<App>,
    PathId(domain): PathId<TenantDomainId>,
) -> Result<StatusCode, Problem> {
    access.commit(&app, &RemoveDomain { actor: access.caller.actor(), domain }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A tenant that the user can join because of their email domain.
#[derive(Serialize, ToSchema)]
#[schema(as = JoinableTenant)]
pub(crate) struct Joinable {
    tenant_id: TenantId,
    tenant_name: Name,
    /// The role that the user would have.
    role: RoleRef,
    /// Name of the role.
    #[schema(example = "Member")]
    role_name: String,
}

/// List joinable tenants
///
/// Lists the tenants that the user can join because of their email domain and is not a member of
/// yet.
#[utoipa::path(
    get, path = "/api/auth/joinable-tenants", tag = "Domains",
    responses((status = 200, description = "The tenants, at most one.", body = List<Joinable>))
)]
pub(crate) async fn joinable(
    account: Account,
    State(app): State<App>,
) -> Result<Answer<List<Joinable>>, Problem> {
    let Some((tenant, given)) = open_to(&app, &account).await? else {
        return Ok(Answer(List::from_iter([])));
    };
    let membership = Membership::of_person(app.store(), tenant.id, account.user.id).await?;
    let is_member = membership.is_some();
    let joinable = || Joinable {
        tenant_id: tenant.id,
        tenant_name: tenant.name,
        role: given.role,
        role_name: given.name,
    };
    Ok(Answer((!is_member).then(joinable).into_iter().collect()))
}

/// The tenant that the caller can join because of their email domain, and the role they would have.
async fn open_to(app: &App, account: &Account) -> Result<Option<(Tenant, Grant)>, Problem> {
    let (store, email) = (app.store(), &account.user.email);
    let Some(domain) = TenantDomain::open_to(store, email).await? else { return Ok(None) };
    let (tenant, given) =
        futures::try_join!(Tenant::of(store, domain.scope()), domain.grant(store))?;
    let is_open = |tenant: &Tenant| {
        tenant.status == TenantStatus::Active && tenant.security.allowed_email_domains.admit(email)
    };
    Ok(tenant.filter(is_open).zip(given))
}

#[derive(ToSchema)]
pub(crate) struct JoinTenant {
    tenant_id: TenantId,
}

impl FromFields for JoinTenant {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { tenant_id: fields.required("tenant_id")? })
    }
}

/// Request an invitation by email domain
///
/// Sends the user an invitation to a joinable tenant, or resends the pending one; following it
/// confirms that the email address is still theirs. Former members are not invited and must ask a
/// member. Emails are at least a minute apart.
#[utoipa::path(
    post, path = "/api/auth/join-tenant", tag = "Domains", request_body = JoinTenant,
    responses(
        (status = 202, description = "An invitation will be sent.", body = InvitationRequested),
        Refusals<(JoinError, NotJoinable, TooMany)>,
    )
)]
pub(crate) async fn join(
    account: Account,
    State(app): State<App>,
    client: Client,
    Json(body): Json<JoinTenant>,
) -> Result<Response, Problem> {
    let membership = Membership::of_person(app.store(), body.tenant_id, account.user.id).await?;
    if membership.is_some() {
        return Err(JoinError::AlreadyMember.into());
    }
    let open = open_to(&app, &account).await?.filter(|(tenant, _)| tenant.id == body.tenant_id);
    if open.is_none() {
        return Err(NotJoinable.into());
    }
    let _counted = Guard::of_mailbox(&app, Act::FollowInviteLink, &account.user.email, &client)
        .admit()
        .await?;
    let ask = AskByDomain {
        tenant: body.tenant_id,
        user: account.user.id,
        cooldown: app.auth.resend_cooldown,
    };
    account.commit(&app, &ask).await?;
    Ok((StatusCode::ACCEPTED, Answer(InvitationRequested::SENT)).into_response())
}
