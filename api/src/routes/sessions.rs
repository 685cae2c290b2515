//! Sessions: signing in and out, and who one is.

use std::str::FromStr;

use axum::{
    Json as Answer,
    extract::State,
    http::{HeaderMap, StatusCode, header},
};
use common::{
    ambient::rfc3339,
    crypto::Password,
    email::Email,
    id::{SessionId, TenantId},
    roles::{Permission, Role},
    sessions::Session,
    sign_in::{Attempt, SignOut, SignedIn},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{tenants::TenantView, users::UserView};
use crate::{
    extract::{Caller, Fields, FromFields, Json, NotAmong},
    keyring::AccessToken,
    problem::Problem,
    state::App,
};

/// What someone who signs in sends.
#[derive(ToSchema)]
pub(super) struct Login {
    /// The account's address.
    #[schema(value_type = String, format = "email", max_length = 254, example = "ada@example.com")]
    email: Email,
    /// Its password.
    #[schema(value_type = String, format = "password", max_length = 1024, example = "correct horse battery staple")]
    password: Password,
    /// The tenant to work in; the first that is in use when not given.
    #[schema(value_type = Option<String>, example = "ten_0192a0b8c0de7000800000000000cafe")]
    tenant_id: Option<TenantId>,
    /// Whether to stay signed in. Accepted, and without effect until refresh tokens are issued.
    #[expect(dead_code, reason = "part of the contract; refresh tokens give it its effect")]
    remember_me: Option<bool>,
    /// Where the refresh token is to go: `cookie` or `body`. Accepted, and without effect until
    /// refresh tokens are issued.
    #[schema(value_type = Option<String>, example = "cookie")]
    #[expect(dead_code, reason = "part of the contract; refresh tokens give it its effect")]
    token_delivery: Option<TokenDelivery>,
}

/// Where a refresh token is to go.
enum TokenDelivery {
    Cookie,
    Body,
}

impl FromStr for TokenDelivery {
    type Err = NotAmong;
    fn from_str(text: &str) -> Result<Self, NotAmong> {
        match text {
            "cookie" => Ok(Self::Cookie),
            "body" => Ok(Self::Body),
            _ => Err(NotAmong(&["cookie", "body"])),
        }
    }
}

impl FromFields for Login {
    fn read(fields: &mut Fields) -> Option<Self> {
        // A password of any length is looked at: how long ours are is told at registration.
        let (email, password) = (fields.required("email"), fields.required_as("password", Password::presented));
        let (tenant_id, remember_me) = (fields.optional("tenant_id"), fields.optional_bool("remember_me"));
        let token_delivery = fields.optional("token_delivery");
        Some(Self { email: email?, password: password?, tenant_id, remember_me, token_delivery })
    }
}

/// Someone is signed in.
#[derive(Serialize, ToSchema)]
#[schema(as = SignedIn)]
pub(super) struct LoginView {
    /// Send it as `Authorization: Bearer …`.
    access_token: String,
    /// Always `Bearer`.
    #[schema(value_type = String, example = "Bearer")]
    token_type: &'static str,
    /// Seconds the access token is good for.
    #[schema(example = 900)]
    expires_in: u64,
    /// Who signed in.
    user: UserView,
    /// The tenant they work in.
    tenant: TenantView,
    /// Every tenant they belong to.
    tenants: Vec<TenantView>,
}

impl LoginView {
    fn new(signed_in: &SignedIn, token: AccessToken) -> Self {
        Self {
            access_token: token.text,
            token_type: "Bearer",
            expires_in: token.ttl.as_secs(),
            user: UserView::new(&signed_in.user),
            tenant: TenantView::new(&signed_in.current.tenant, signed_in.current.role),
            tenants: signed_in.belongings.iter().map(|belonging| TenantView::new(&belonging.tenant, belonging.role)).collect(),
        }
    }
}

/// Sign in.
///
/// Refused as `invalid_credentials` (401) when the address or the password is wrong, whether or
/// not there is such an account; as `email_not_verified` (403) when the password is right and the
/// address waits to be verified; as `tenant_suspended` (403) or `tenant_not_found` (404) when the
/// tenant cannot be worked in. Refresh tokens are not issued yet.
#[utoipa::path(
    post, path = "/api/auth/login", tag = "Session", security(()), request_body = Login,
    responses((status = 200, description = "Signed in.", body = LoginView))
)]
pub(super) async fn login(State(app): State<App>, headers: HeaderMap, Json(body): Json<Login>) -> Result<Answer<LoginView>, Problem> {
    let Login { email, password, tenant_id: tenant, .. } = body;
    let attempt = Attempt { email, password, tenant, device: device(&headers), ttl: app.auth.session_ttl };
    let signed_in = attempt.sign_in(app.store(), &app.hasher).await?;
    let token = app.keyring.issue(&signed_in)?;
    Ok(Answer(LoginView::new(&signed_in, token)))
}

/// Sign out.
///
/// Ends the session; its access tokens are refused from now on, by every process.
#[utoipa::path(
    post, path = "/api/auth/logout", tag = "Session",
    responses((status = 204, description = "Signed out."))
)]
pub(super) async fn logout(State(app): State<App>, caller: Caller) -> Result<StatusCode, Problem> {
    app.jobs.commit(&SignOut { session: caller.session.id, user: caller.user.id, tenant: caller.tenant.id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who one is and what one may do.
#[derive(Serialize, ToSchema)]
pub(super) struct Me {
    /// Who.
    user: UserView,
    /// The tenant one works in.
    tenant: TenantView,
    /// As what.
    #[schema(value_type = String, example = "owner")]
    role: Role,
    /// What the role may do.
    #[schema(value_type = Vec<String>, example = json!(["tenant:read"]))]
    permissions: &'static [Permission],
    /// The sign-in.
    session: SessionView,
}

/// A sign-in.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub(super) struct SessionView {
    /// Its id.
    #[schema(value_type = String, example = "ses_0192a0b8c0de7000800000000000cafe")]
    id: SessionId,
    /// What the client said it is.
    device: String,
    /// Since when.
    #[schema(format = DateTime)]
    created_at: String,
    /// Until when at most.
    #[schema(format = DateTime)]
    expires_at: String,
}

impl SessionView {
    fn new(session: &Session) -> Self {
        Self {
            id: session.id,
            device: session.device.clone(),
            created_at: rfc3339(session.created_at),
            expires_at: rfc3339(session.expires_at),
        }
    }
}

/// See who one is.
#[utoipa::path(
    get, path = "/api/auth/me", tag = "Session",
    responses((status = 200, description = "Who one is, where, and what one may do there.", body = Me))
)]
pub(super) async fn me(caller: Caller) -> Answer<Me> {
    let role = caller.membership.role;
    Answer(Me {
        user: UserView::new(&caller.user),
        tenant: TenantView::new(&caller.tenant, role),
        role,
        permissions: role.permissions(),
        session: SessionView::new(&caller.session),
    })
}

/// What the client says it is.
fn device(headers: &HeaderMap) -> String {
    let given = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    given.unwrap_or_default().to_owned()
}
