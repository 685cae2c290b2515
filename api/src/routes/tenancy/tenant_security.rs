//! Security settings of the tenant.

use axum::{extract::State, http::StatusCode, response::Response};
use common::networks::Range;
use domain::tenancy::tenant_security::{
    AbsoluteHours, Allowlist, ChangeSecurity, DOMAINS_MAX, EmailDomain, EmailDomains, IdleMinutes,
    PasswordLength, RANGES_MAX, Security, SecurityError,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::etag::{self, IfMatch, IfNoneMatch},
    extract::{
        Client, Fields, FromFields, Json, OwnerFromAnywhere, Recent, Requires, SecurityWrite,
    },
    problem::{Problem, Refusals},
    state::App,
};

/// Security settings of a tenant. They can only be stricter than those of the installation.
#[derive(Serialize, ToSchema)]
#[schema(as = Security)]
pub(crate) struct SecurityView {
    /// Whether members must have a second factor.
    require_mfa: bool,
    /// Sessions end after this many minutes without use.
    #[schema(required = true)]
    session_idle_minutes: Option<IdleMinutes>,
    /// Sessions end after this many hours.
    #[schema(required = true)]
    session_absolute_hours: Option<AbsoluteHours>,
    /// Minimum length of members' new passwords. The strictest tenant of a member applies.
    #[schema(required = true)]
    password_min_length: Option<PasswordLength>,
    /// Only email addresses at these domains can be invited. An empty list allows all. At most 100.
    allowed_email_domains: EmailDomains,
    /// Members can only work in the tenant from these IP addresses. An empty list allows all.
    ip_allowlist: Allowlist,
}

impl From<Security> for SecurityView {
    fn from(security: Security) -> Self {
        let Security {
            require_mfa,
            session_idle_minutes,
            session_absolute_hours,
            password_min_length,
            allowed_email_domains,
            ip_allowlist,
        } = security;
        Self {
            require_mfa,
            session_idle_minutes,
            session_absolute_hours,
            password_min_length,
            allowed_email_domains,
            ip_allowlist,
        }
    }
}

impl FromFields for Security {
    /// All fields are required: one that is left out would be reset.
    fn read(fields: &mut Fields) -> Option<Self> {
        let require_mfa = fields.required_bool("require_mfa");
        let session_idle_minutes = fields.nullable_number("session_idle_minutes");
        let session_absolute_hours = fields.nullable_number("session_absolute_hours");
        let password_min_length = fields.nullable_number("password_min_length");
        let domains =
            fields.required_list_up_to::<EmailDomain>("allowed_email_domains", DOMAINS_MAX);
        let ranges = fields.required_list_up_to::<Range>("ip_allowlist", RANGES_MAX);
        Some(Self {
            require_mfa: require_mfa?,
            session_idle_minutes: session_idle_minutes?.0,
            session_absolute_hours: session_absolute_hours?.0,
            password_min_length: password_min_length?.0,
            allowed_email_domains: domains?.into_iter().collect(),
            ip_allowlist: ranges?.into_iter().collect(),
        })
    }
}

/// Get the security settings
#[utoipa::path(
    get, path = "/api/tenant/security", tag = "Tenant",
    responses(
        (status = 200, description = "The settings.", body = SecurityView, headers(("ETag" = String, description = "Identifies the current state."))),
        (status = 304, description = "The client already has the current state."),
    )
)]
pub(crate) async fn see(
    OwnerFromAnywhere(access): OwnerFromAnywhere<Requires<SecurityWrite>>,
    if_none_match: IfNoneMatch,
) -> Result<Response, Problem> {
    if_none_match.answer(&SecurityView::from(access.caller.tenant().security.clone()))
}

/// Replace the security settings
///
/// All settings are replaced, and they apply to all requests from now on, including those of
/// existing sessions. The IP allowlist must include the caller's own IP address, and a caller who
/// requires a second factor must have one, so that callers cannot lock themselves out.
#[utoipa::path(
    put, path = "/api/tenant/security", tag = "Tenant", request_body = SecurityView,
    responses(
        (status = 200, description = "Replaced.", body = SecurityView, headers(("ETag" = String, description = "Identifies the current state."))),
        Refusals<SecurityError>,
    )
)]
pub(crate) async fn change(
    OwnerFromAnywhere(Recent(access)): OwnerFromAnywhere<Recent<Requires<SecurityWrite>>>,
    State(app): State<App>,
    client: Client,
    if_match: IfMatch,
    Json(security): Json<Security>,
) -> Result<Response, Problem> {
    let unchanged = |security: &Security| if_match.holds(&SecurityView::from(security.clone()));
    let change = ChangeSecurity {
        actor: access.caller.actor(),
        address: client.address,
        security,
        unchanged: &unchanged,
    };
    etag::tagged(StatusCode::OK, &SecurityView::from(access.commit(&app, &change).await?))
}
