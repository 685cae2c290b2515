//! The tenant's own rules for signing in.

use axum::{extract::State, http::StatusCode, response::Response};
use common::networks::Range;
use domain::tenancy::tenant_security::{
    AbsoluteHours, Allowlist, ChangeSecurity, DOMAINS_MAX, EmailDomain, EmailDomains, IdleMinutes,
    PasswordLength, RANGES_MAX, Security,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    etag::{self, IfMatch, IfNoneMatch},
    extract::{Client, Fields, FromFields, Json, Recent, Requires, SecurityWrite},
    problem::Problem,
    state::App,
};

/// A tenant's own rules for signing in. None of them is wider than what holds for everybody.
#[derive(Serialize, ToSchema)]
#[schema(as = Security)]
pub(crate) struct SecurityView {
    /// Whether its members must have a second factor.
    require_mfa: bool,
    /// Sessions in it end when they are not used for so many minutes.
    #[schema(value_type = Option<u32>, required = true, minimum = 5, maximum = 43_200, example = 30)]
    session_idle_minutes: Option<IdleMinutes>,
    /// Sessions in it last for so many hours at most.
    #[schema(value_type = Option<u32>, required = true, minimum = 1, maximum = 8_760, example = 12)]
    session_absolute_hours: Option<AbsoluteHours>,
    /// New passwords of its members have so many characters at least: of who belongs to several
    /// tenants, the most that one asks for.
    #[schema(value_type = Option<u32>, required = true, minimum = 8, maximum = 64, example = 12)]
    password_min_length: Option<PasswordLength>,
    /// The domains whose addresses are invited, without their subdomains; all where none is named.
    #[schema(value_type = Vec<String>, max_items = 100, example = json!(["example.com"]))]
    allowed_email_domains: EmailDomains,
    /// The addresses, or ranges of them, that one works in it from; any where none is named.
    #[schema(value_type = Vec<String>, max_items = 100, example = json!(["192.0.2.0/24", "2001:db8::/32"]))]
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
    /// All of them: one that is left out would be lost.
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

/// See the tenant's rules for signing in.
#[utoipa::path(
    get, path = "/api/tenant/security", tag = "Tenant",
    responses(
        (status = 200, description = "The rules.", body = SecurityView, headers(("ETag" = String, description = "Names this state of them."))),
        (status = 304, description = "They are what one has."),
    )
)]
pub(crate) async fn see(
    access: Requires<SecurityWrite>,
    if_none_match: IfNoneMatch,
) -> Result<Response, Problem> {
    if_none_match.answer(&SecurityView::from(access.caller.tenant.security.clone()))
}

/// Replace the tenant's rules for signing in, all of them.
///
/// They hold from the next request on, everywhere: for sessions that have begun, too. A list of
/// addresses that lacks one's own is refused (422), so that nobody locks themselves out, and who
/// demands a second factor has one (`mfa_enrollment_required`, 403). Refused as
/// `precondition_failed` (412) when the rules are not what `If-Match` says any more.
#[utoipa::path(
    put, path = "/api/tenant/security", tag = "Tenant", request_body = SecurityView,
    responses((status = 200, description = "Replaced.", body = SecurityView, headers(("ETag" = String, description = "Names this state of them."))))
)]
pub(crate) async fn change(
    Recent(access): Recent<Requires<SecurityWrite>>,
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
    etag::tagged(StatusCode::OK, &SecurityView::from(access.caller.commit(&app, &change).await?))
}
