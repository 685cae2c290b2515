//! The domains of a tenant's people, and being invited by one's address.

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{
    clock::rfc3339,
    id::{TenantDomainId, TenantId},
    name::Name,
    origin::Principal,
};
use domain::{
    access::throttle::Act,
    tenancy::{
        joining::JoinError,
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

use super::invite_links::Progress;
use crate::{
    extract::{
        Caller, Client, Fields, FromFields, Json, Nullable, PathId, Recent, Requires, SecurityWrite,
    },
    problem::Problem,
    state::App,
    throttle::Guard,
};

/// A domain that a tenant says is its people's.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantDomain)]
pub(crate) struct DomainView {
    /// Its id.
    #[schema(value_type = String, example = "dom_0192a0b8c0de7000800000000000cafe")]
    id: TenantDomainId,
    /// The domain, without its subdomains.
    #[schema(value_type = String, example = "example.com")]
    domain: EmailDomain,
    /// `pending` until its record is looked for first; then `verified`, `record_missing`,
    /// `no_answer` when its name servers do not answer, or `held_by_another` when another tenant
    /// was first to show the same.
    #[schema(value_type = String, example = "verified")]
    status: &'static str,
    /// What is to be published in the DNS, and to stay there.
    record: DnsRecord,
    /// As what people are invited by themselves who have an address there, while it is verified;
    /// null when they are not.
    #[schema(value_type = Option<String>, required = true, example = "member")]
    auto_invite_role: Option<RoleRef>,
    /// Who added it.
    #[schema(value_type = String, example = "usr_0192a0b8c0de7000800000000000cafe")]
    added_by: Principal,
    /// Since when.
    #[schema(format = DateTime)]
    created_at: String,
    /// When its record was last looked for.
    #[schema(format = DateTime)]
    checked_at: Option<String>,
    /// Since when it is verified.
    #[schema(format = DateTime)]
    verified_at: Option<String>,
    /// Since when its record is gone; it stays verified for a while.
    #[schema(format = DateTime)]
    missing_since: Option<String>,
}

/// What is to be published in the DNS.
#[derive(Serialize, ToSchema)]
pub(crate) struct DnsRecord {
    /// `TXT`.
    #[schema(value_type = String, example = "TXT")]
    r#type: &'static str,
    /// Under which name.
    #[schema(example = "_tenantry.example.com")]
    name: String,
    /// What it is to say.
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
            created_at: rfc3339(domain.created_at),
            checked_at: domain.checked_at.map(rfc3339),
            verified_at: domain.verified_at.map(rfc3339),
            missing_since: domain.missing_since.map(rfc3339),
            domain: domain.domain,
        }
    }
}

/// A tenant's domains.
#[derive(Serialize, ToSchema)]
#[schema(as = TenantDomains)]
pub(crate) struct Domains {
    /// They, in the order in which they were added.
    items: Vec<DomainView>,
}

/// A domain to add.
#[derive(ToSchema)]
pub(crate) struct DomainBody {
    /// The domain, without its subdomains.
    #[schema(value_type = String, example = "example.com")]
    domain: EmailDomain,
}

impl FromFields for DomainBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { domain: fields.required("domain")? })
    }
}

/// List the tenant's domains.
#[utoipa::path(
    get, path = "/api/tenant/domains", tag = "Domains",
    responses((status = 200, description = "The domains.", body = Domains))
)]
pub(crate) async fn list(
    access: Requires<SecurityWrite>,
    State(app): State<App>,
) -> Result<Answer<Domains>, Problem> {
    let domains = TenantDomain::all(app.store(), access.caller.scope()).await?;
    Ok(Answer(Domains {
        items: domains.into_iter().map(|domain| DomainView::new(&app, domain)).collect(),
    }))
}

/// Add a domain.
///
/// Publish its `record`, then have it looked for (`POST …/{id}/verify`). Refused as
/// `domain_added_already` (409), and as `too_many_domains` (409) when the tenant has as many as it
/// may.
#[utoipa::path(
    post, path = "/api/tenant/domains", tag = "Domains", request_body = DomainBody,
    responses((status = 201, description = "Added.", body = DomainView))
)]
pub(crate) async fn add(
    access: Requires<SecurityWrite>,
    State(app): State<App>,
    Json(body): Json<DomainBody>,
) -> Result<Response, Problem> {
    let add = AddDomain {
        actor: access.caller.actor(),
        domain: body.domain,
        max: app.members.domains_max,
    };
    let domain = access.caller.commit(&app, &add).await?;
    Ok((StatusCode::CREATED, Answer(DomainView::new(&app, domain))).into_response())
}

/// Have a domain's record looked for.
///
/// That is done in the background; look at `status` until `checked_at` is another. While it is
/// verified it is looked for every day, and a domain whose record is gone stays verified for a few
/// days.
#[utoipa::path(
    post, path = "/api/tenant/domains/{id}/verify", tag = "Domains",
    responses((status = 202, description = "It will be looked for.", body = DomainView))
)]
pub(crate) async fn verify(
    access: Requires<SecurityWrite>,
    State(app): State<App>,
    client: Client,
    PathId(domain): PathId<TenantDomainId>,
) -> Result<Response, Problem> {
    let domain = TenantDomain::of(app.store(), access.caller.scope(), domain)
        .await?
        .ok_or(DomainError::NotFound)?;
    let _counted =
        Guard::of_account(&app, Act::CheckDomain, &domain.id.to_string(), &client).admit().await?;
    app.jobs.commit(&access.caller.origin(), &CheckDomains::of([&domain])).await?;
    Ok((StatusCode::ACCEPTED, Answer(DomainView::new(&app, domain))).into_response())
}

/// As what people are invited by themselves.
#[derive(ToSchema)]
pub(crate) struct AutoInviteBody {
    /// A built-in role but owner, or the id of one of the tenant's own; null when they are not to
    /// be.
    #[schema(value_type = Option<String>, required = true, example = "member")]
    auto_invite_role: Option<RoleRef>,
}

impl FromFields for AutoInviteBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let Nullable(auto_invite_role) = fields.nullable("auto_invite_role")?;
        Some(Self { auto_invite_role })
    }
}

/// Say as what people are invited by themselves who have an address of a domain.
///
/// Once it is verified: whoever registers with such an address is mailed an invitation when it is
/// verified, and whoever has an account when they ask (`GET /api/auth/joinable-tenants`). It is
/// one's own word: void while one may not invite to the role. Refused as `role_too_high` (403) when
/// one may not now; nobody becomes an owner so (422).
#[utoipa::path(
    put, path = "/api/tenant/domains/{id}", tag = "Domains", request_body = AutoInviteBody,
    responses((status = 200, description = "Said.", body = DomainView))
)]
pub(crate) async fn update(
    Recent(access): Recent<Requires<SecurityWrite>>,
    State(app): State<App>,
    PathId(domain): PathId<TenantDomainId>,
    Json(body): Json<AutoInviteBody>,
) -> Result<Answer<DomainView>, Problem> {
    let set = SetAutoInvite { actor: access.caller.actor(), domain, role: body.auto_invite_role };
    let domain = access.caller.commit(&app, &set).await?;
    Ok(Answer(DomainView::new(&app, domain)))
}

/// Remove a domain.
///
/// Who was invited because of it stays invited; nobody else is, and another tenant may have it.
#[utoipa::path(
    delete, path = "/api/tenant/domains/{id}", tag = "Domains",
    responses((status = 204, description = "Removed."))
)]
pub(crate) async fn remove(
    access: Requires<SecurityWrite>,
    State(app): State<App>,
    PathId(domain): PathId<TenantDomainId>,
) -> Result<StatusCode, Problem> {
    access.caller.commit(&app, &RemoveDomain { actor: access.caller.actor(), domain }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A tenant that one may be invited to by one's address.
#[derive(Serialize, ToSchema)]
#[schema(as = JoinableTenant)]
pub(crate) struct Joinable {
    /// Its id.
    #[schema(value_type = String, example = "ten_0192a0b8c0de7000800000000000cafe")]
    tenant_id: TenantId,
    /// What it is called.
    #[schema(value_type = String, example = "Analytical Engines")]
    tenant_name: Name,
    /// As what one would join.
    #[schema(value_type = String, example = "member")]
    role: RoleRef,
    /// What the role is called.
    #[schema(example = "Member")]
    role_name: String,
}

/// The tenants that one may be invited to.
#[derive(Serialize, ToSchema)]
pub(crate) struct JoinableTenants {
    /// They: one at most, for one tenant alone holds a domain.
    items: Vec<Joinable>,
}

/// See which tenants are open to one's address.
#[utoipa::path(
    get, path = "/api/auth/joinable-tenants", tag = "Domains",
    responses((status = 200, description = "Those that one does not belong to yet.", body = JoinableTenants))
)]
pub(crate) async fn joinable(
    caller: Caller,
    State(app): State<App>,
) -> Result<Answer<JoinableTenants>, Problem> {
    let Some((tenant, given)) = open_to(&app, &caller).await? else {
        return Ok(Answer(JoinableTenants { items: Vec::new() }));
    };
    let membership = Membership::of_person(app.store(), tenant.id, caller.user.id).await?;
    let is_member = membership.is_some();
    let joinable = || Joinable {
        tenant_id: tenant.id,
        tenant_name: tenant.name,
        role: given.role,
        role_name: given.name,
    };
    Ok(Answer(JoinableTenants { items: (!is_member).then(joinable).into_iter().collect() }))
}

/// The tenant that is open to the caller's address, and what they would be invited to.
async fn open_to(app: &App, caller: &Caller) -> Result<Option<(Tenant, Grant)>, Problem> {
    let (store, email) = (app.store(), &caller.user.email);
    let Some(domain) = TenantDomain::open_to(store, email).await? else { return Ok(None) };
    let (tenant, given) =
        futures::try_join!(Tenant::of(store, domain.scope()), domain.grant(store))?;
    let is_open = |tenant: &Tenant| {
        tenant.status == TenantStatus::Active && tenant.security.allowed_email_domains.admit(email)
    };
    Ok(tenant.filter(is_open).zip(given))
}

/// Which tenant to be invited to.
#[derive(ToSchema)]
pub(crate) struct JoinTenant {
    /// Its id.
    #[schema(value_type = String, example = "ten_0192a0b8c0de7000800000000000cafe")]
    tenant_id: TenantId,
}

impl FromFields for JoinTenant {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { tenant_id: fields.required("tenant_id")? })
    }
}

/// Have oneself invited to a tenant that is open to one's address.
///
/// Mails one an invitation, or once more the one that waits: whoever reads the mail shows that the
/// address is theirs now. Whoever was a member once is not mailed any: somebody there invites them.
/// Mails are at least a minute apart; what is asked for sooner is not sent. Refused as
/// `already_member` (409), as `tenant_not_found` (404) when the tenant is not open to one's
/// address, and as `too_many_attempts` (429).
#[utoipa::path(
    post, path = "/api/auth/join-tenant", tag = "Domains", request_body = JoinTenant,
    responses((status = 202, description = "A mail is on its way.", body = Progress))
)]
pub(crate) async fn join(
    caller: Caller,
    State(app): State<App>,
    client: Client,
    Json(body): Json<JoinTenant>,
) -> Result<Response, Problem> {
    let membership = Membership::of_person(app.store(), body.tenant_id, caller.user.id).await?;
    if membership.is_some() {
        return Err(JoinError::AlreadyMember.into());
    }
    let open = open_to(&app, &caller).await?.filter(|(tenant, _)| tenant.id == body.tenant_id);
    if open.is_none() {
        return Err(Problem::not_open());
    }
    let _counted =
        Guard::of_address(&app, Act::FollowInviteLink, &caller.user.email, &client).admit().await?;
    let ask = AskByDomain {
        tenant: body.tenant_id,
        user: caller.user.id,
        cooldown: app.auth.resend_cooldown,
    };
    caller.commit(&app, &ask).await?;
    Ok((StatusCode::ACCEPTED, Answer(Progress::SENT)).into_response())
}
