//! Sessions: signing in and out, going on, and who one is.

use std::{str::FromStr, time::Duration};

use axum::{
    Json as Answer,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use common::{
    clock::{between, rfc3339},
    crypto::{Password, PresentedToken},
    email::Email,
    id::{SessionId, TenantId},
    telemetry::metrics,
};
use domain::{
    identity::{
        mfa::challenges::Purpose,
        refresh::{RefreshError, RefreshSession, Refreshed},
        sessions::{Lifetime, Session},
        sign_in::{Attempt, EndSession, SignInError, SignOut, SignOutAll, SignedIn, SwitchTenant},
    },
    tenancy::roles::{Grant, Permissions, RoleRef},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{mfa, users::UserView};
use crate::{
    extract::{
        Caller, Client, Fields, FromAnywhere, FromFields, Json, NotAmong, Open, OptionalJson,
        PathId,
    },
    openapi::PermissionName,
    problem::{Code, FieldError, Problem},
    refresh_cookie,
    routes::tenancy::tenants::TenantView,
    state::App,
    throttle::Guard,
};

/// A client does well to refresh when this part of its access token's life is over.
const REFRESH_AT: f64 = 0.8;

/// What someone who signs in sends.
#[derive(ToSchema)]
pub(crate) struct Login {
    /// The account's address.
    #[schema(value_type = String, format = "email", max_length = 254, example = "ada@example.com")]
    email: Email,
    /// Its password.
    #[schema(value_type = String, format = "password", max_length = 1024, example = "correct horse battery staple")]
    password: Password,
    /// The tenant to work in; the first that is in use when not given.
    #[schema(value_type = Option<String>, example = "ten_0192a0b8c0de7000800000000000cafe")]
    tenant_id: Option<TenantId>,
    /// Whether to stay signed in: for weeks, and also when the browser is closed.
    remember_me: Option<bool>,
    /// Where the refresh token is to go: `cookie` (for browsers, and without this) or `body`.
    #[schema(value_type = Option<String>, example = "cookie")]
    token_delivery: Option<TokenDelivery>,
}

/// Where a refresh token is to go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenDelivery {
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
        let (email, password) =
            (fields.required("email"), fields.required_as("password", Password::presented));
        let (tenant_id, remember_me) =
            (fields.optional("tenant_id"), fields.optional_bool("remember_me"));
        let token_delivery = fields.optional("token_delivery");
        Some(Self { email: email?, password: password?, tenant_id, remember_me, token_delivery })
    }
}

/// Someone is signed in.
#[derive(Serialize, ToSchema)]
#[schema(as = SignedIn)]
pub(crate) struct LoginView {
    /// Send it as `Authorization: Bearer …`.
    access_token: String,
    /// Always `Bearer`.
    #[schema(value_type = String, example = "Bearer")]
    token_type: &'static str,
    /// Seconds the access token is good for.
    #[schema(example = 900)]
    expires_in: u64,
    /// Where it was asked for in the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// When to go on, and until when that can be done.
    session: SessionTimes,
    /// Who signed in.
    user: UserView,
    /// The tenant they work in.
    tenant: TenantView,
    /// Every tenant they belong to.
    tenants: Vec<TenantView>,
}

/// When a session wants attention, so that a page can go on in time and knows when it will be over,
/// also after it was loaded anew.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionTimes {
    /// Its id.
    #[schema(value_type = String, example = "ses_0192a0b8c0de7000800000000000cafe")]
    id: SessionId,
    /// Seconds after which to refresh.
    #[schema(example = 720)]
    refresh_in: u64,
    /// When it ends unless it is refreshed before.
    #[schema(format = DateTime)]
    idle_expires_at: String,
    /// When it ends in any case.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// Answers someone who is signed in, with a refresh token where `delivery` says.
pub(crate) fn signed_in(
    app: &App,
    signed_in: &SignedIn,
    delivery: Option<TokenDelivery>,
) -> Result<Response, Problem> {
    let access = app.keyring.issue(signed_in)?;
    let session = &signed_in.session;
    let refresh = delivery.and_then(|delivery| Some((delivery, session.refresh_token(&app.key)?)));
    let view = LoginView {
        token_type: "Bearer",
        expires_in: access.ttl.as_secs(),
        access_token: access.text,
        refresh_token: refresh
            .as_ref()
            .filter(|(delivery, _)| *delivery == TokenDelivery::Body)
            .map(|(_, token)| token.expose().to_owned()),
        session: SessionTimes {
            id: session.id,
            refresh_in: refresh_in(access.ttl, session).as_secs(),
            idle_expires_at: rfc3339(session.idle_expires_at()),
            expires_at: rfc3339(session.expires_at),
        },
        user: UserView::new(&signed_in.user),
        tenant: TenantView::new(&signed_in.current.tenant, signed_in.current.role),
        tenants: signed_in
            .belongings
            .iter()
            .map(|belonging| TenantView::new(&belonging.tenant, belonging.role))
            .collect(),
    };
    let mut response = Answer(view).into_response();
    if let Some((TokenDelivery::Cookie, token)) = &refresh {
        let cookie = refresh_cookie::set(session, token, app.clock().now());
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// When to refresh: in time for the access token, and for the session that would end unused.
fn refresh_in(token_ttl: Duration, session: &Session) -> Duration {
    let idle =
        session.last_seen_at.map_or(token_ttl, |seen| between(seen, session.idle_expires_at()));
    token_ttl.min(idle).mul_f64(REFRESH_AT)
}

/// Sign in.
///
/// Refused as `invalid_credentials` (401) when the address or the password is wrong, whether or not
/// there is such an account; as `email_not_verified` (403) when the password is right and the
/// address waits to be verified; as `account_disabled` (403) when the password is right and an
/// operator stopped the account; as `tenant_suspended` (403) or `tenant_not_found` (404) when the
/// tenant cannot be worked in; as `ip_not_allowed` (403) when it is not from this address; as
/// `mfa_required` (401) when the account has a second factor: the answer's `mfa_token` goes to
/// `POST /api/auth/mfa/verify`. After too many failures `too_many_attempts` (429), also whether or
/// not there is such an account, and not from a network that its owner signed in from before.
#[utoipa::path(
    post, path = "/api/auth/login", tag = "Session", request_body = Login,
    responses((status = 200, description = "Signed in.", body = LoginView, headers(("Set-Cookie" = String, description = "The refresh token, for browsers."))))
)]
pub(crate) async fn login(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Login>,
) -> Result<Response, Problem> {
    let Login { email, password, tenant_id: tenant, remember_me, token_delivery } = body;
    let remember = remember_me.unwrap_or_default();
    let address = email.clone();
    let attempt = Attempt {
        email,
        password,
        tenant,
        device: client.device(),
        remember,
        lifetime: lifetime(&app, remember),
    };
    let checking = attempt.check(app.store(), &app.hasher);
    let is_wrong = |error: &SignInError| matches!(error, SignInError::InvalidCredentials);
    let admitted = Guard::check_password(&app, &client, &address, checking, is_wrong).await?;
    match app.jobs.commit(&client.origin(), &admitted.begin).await {
        Ok(session) => signed_in(
            &app,
            &admitted.signed_in(session),
            Some(token_delivery.unwrap_or(TokenDelivery::Cookie)),
        ),
        Err(SignInError::SecondFactorRequired) => {
            Err(mfa::asked(&app, Purpose::SignIn(admitted.begin)).await)
        }
        Err(error) => Err(error.into()),
    }
}

/// How long a session lasts that begins now.
pub(crate) fn lifetime(app: &App, remember: bool) -> Lifetime {
    let auth = &app.auth;
    if remember {
        Lifetime { absolute: auth.remembered_session_ttl, idle: auth.remembered_session_idle }
    } else {
        Lifetime { absolute: auth.session_ttl, idle: auth.session_idle }
    }
}

/// What someone sends who wants to go on.
#[derive(ToSchema)]
pub(crate) struct RefreshBody {
    /// The refresh token, for clients that were given it in the body; browsers send their cookie.
    refresh_token: Option<String>,
    /// Where the next one is to go; where this one came from when not given.
    #[schema(value_type = Option<String>, example = "cookie")]
    token_delivery: Option<TokenDelivery>,
}

impl FromFields for RefreshBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            refresh_token: fields.optional_text("refresh_token"),
            token_delivery: fields.optional("token_delivery"),
        })
    }
}

/// Go on: exchange the refresh token for an access token and the next refresh token.
///
/// Each refresh token is good once. One that was superseded a moment ago is answered with the same
/// successor, so a client that lost the answer asks again. Refused as `refresh_raced` (409) when
/// others are further already: use what they were given; as `token_reused` (401) when it was
/// superseded longer ago, which ends the session, for it may be stolen; as `refresh_token_invalid`
/// (401) when it is none or its session is over; as `ip_not_allowed` (403) when the tenant is not
/// worked in from this address, and then the token stays good.
#[utoipa::path(
    post, path = "/api/auth/refresh", tag = "Session", request_body = Option<RefreshBody>,
    responses((status = 200, description = "Gone on.", body = LoginView, headers(("Set-Cookie" = String, description = "The refresh token, for browsers."))))
)]
pub(crate) async fn refresh(
    _: Open,
    State(app): State<App>,
    client: Client,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<RefreshBody>,
) -> Result<Response, Problem> {
    let by_cookie = body.refresh_token.is_none();
    if by_cookie && body.token_delivery == Some(TokenDelivery::Body) {
        // Scripts cannot read the cookie, so they must not be able to exchange it for what they can
        // read.
        return Err(Problem::fields(vec![FieldError::refused(
            "token_delivery",
            &NotAmong(&["cookie"]),
        )]));
    }
    let came_by = if by_cookie { TokenDelivery::Cookie } else { TokenDelivery::Body };
    if by_cookie {
        refuse_other_sites(&app, &headers)?;
    }
    let token = body.refresh_token.or_else(|| refresh_cookie::sent(&headers));
    let token = token.as_deref().and_then(PresentedToken::read);
    let resumed = match token {
        Some(token) => resume(&app, token, &client).await,
        None => Err(Problem::new(Code::RefreshTokenInvalid, "Sign in first.")),
    };
    match resumed {
        Ok(someone) => signed_in(&app, &someone, Some(body.token_delivery.unwrap_or(came_by))),
        // Not for a race or an outage, after which the cookie is still good.
        Err(problem) if by_cookie && problem.status() == StatusCode::UNAUTHORIZED => {
            let mut response = problem.into_response();
            response.headers_mut().append(header::SET_COOKIE, refresh_cookie::clear());
            Ok(response)
        }
        Err(problem) => Err(problem),
    }
}

async fn resume(app: &App, token: PresentedToken, client: &Client) -> Result<SignedIn, Problem> {
    let refresh = RefreshSession {
        key: &app.key,
        token,
        grace: app.auth.refresh_grace,
        address: client.address,
    };
    let refreshed = app.jobs.commit(&client.origin(), &refresh).await;
    let outcome = match &refreshed {
        Ok(Refreshed::Next(_)) => "next",
        Ok(Refreshed::Reused(_)) => "reused",
        Err(RefreshError::Raced) => "raced",
        Err(_) => "invalid",
    };
    metrics::AUTH_REFRESHES.with_label_values(&[outcome]).inc();
    match refreshed? {
        Refreshed::Next(session) => Ok(SignedIn::resume(app.store(), session).await?),
        Refreshed::Reused(session) => {
            tracing::warn!(session = %session.id, user = %session.user_id, "refresh_token_reused");
            Err(Problem::new(
                Code::TokenReused,
                "Sign in again, and change the password if that was not you.",
            ))
        }
    }
}

/// A browser says which site a request is for; a cookie is only taken from our own.
fn refuse_other_sites(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(header::ORIGIN) {
        Some(origin) if origin.as_bytes() != app.origin.as_bytes() => Err(Problem::new(
            Code::OriginRefused,
            "Ask from a page of this installation (`app.public_url`).",
        )),
        _ => Ok(()),
    }
}

/// Sign out.
///
/// Ends the session; its access tokens are refused from now on, by every process. Also from where
/// the tenant is not worked in.
#[utoipa::path(
    post, path = "/api/auth/logout", tag = "Session",
    responses((status = 204, description = "Signed out."))
)]
pub(crate) async fn logout(
    FromAnywhere(caller): FromAnywhere,
    State(app): State<App>,
) -> Result<Response, Problem> {
    let (session, user, scope) = (caller.session.id, caller.user.id, caller.scope());
    app.jobs.commit(&caller.origin(), &SignOut { session, user, scope }).await?;
    Ok(signed_out())
}

/// Sign out everywhere.
///
/// Ends every session of the person, in every tenant.
#[utoipa::path(
    post, path = "/api/auth/logout-all", tag = "Session",
    responses((status = 204, description = "Signed out everywhere."))
)]
pub(crate) async fn logout_all(
    FromAnywhere(caller): FromAnywhere,
    State(app): State<App>,
) -> Result<Response, Problem> {
    let (user, scope) = (caller.user.id, caller.scope());
    app.jobs.commit(&caller.origin(), &SignOutAll { user, scope, kept: None }).await?;
    Ok(signed_out())
}

/// The answer to whoever ended the session that they ask by: their browser forgets its cookie.
pub(crate) fn signed_out() -> Response {
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, refresh_cookie::clear())]).into_response()
}

/// Where to go on.
#[derive(ToSchema)]
pub(crate) struct Switch {
    /// A tenant that one belongs to.
    #[schema(value_type = String, example = "ten_0192a0b8c0de7000800000000000cafe")]
    tenant_id: TenantId,
}

impl FromFields for Switch {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { tenant_id: fields.required("tenant_id")? })
    }
}

/// Go on in another tenant of one's own.
///
/// The session and its refresh token stay; its access tokens for the tenant that is left are
/// refused from now on. Refused as `ip_not_allowed` (403) when the other is not worked in from this
/// address, and as `session_too_old` (403) when sessions do not last there for as long as this one
/// has; one stays where one is then.
#[utoipa::path(
    post, path = "/api/auth/switch-tenant", tag = "Session", request_body = Switch,
    responses((status = 200, description = "At work there.", body = LoginView))
)]
pub(crate) async fn switch_tenant(
    FromAnywhere(caller): FromAnywhere,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Switch>,
) -> Result<Response, Problem> {
    let switch = SwitchTenant {
        session: caller.session.id,
        user: caller.user.id,
        tenant: body.tenant_id,
        address: client.address,
    };
    let session = app.jobs.commit(&caller.origin(), &switch).await?;
    signed_in(&app, &SignedIn::resume(app.store(), session).await?, None)
}

/// One's sessions.
#[derive(Serialize, ToSchema)]
pub(crate) struct Sessions {
    /// Those that are not over, newest first.
    items: Vec<SessionView>,
}

/// List one's sessions.
///
/// Everywhere one is signed in, in every tenant.
#[utoipa::path(
    get, path = "/api/auth/sessions", tag = "Session",
    responses((status = 200, description = "Where one is signed in.", body = Sessions))
)]
pub(crate) async fn list(
    caller: Caller,
    State(app): State<App>,
) -> Result<Answer<Sessions>, Problem> {
    let sessions = Session::all_of(app.store(), caller.user.id).await?;
    Ok(Answer(Sessions {
        items: sessions
            .iter()
            .map(|session| SessionView::new(session, caller.session.id))
            .collect(),
    }))
}

/// End one of one's sessions.
#[utoipa::path(
    delete, path = "/api/auth/sessions/{id}", tag = "Session",
    responses((status = 204, description = "It is over."))
)]
pub(crate) async fn end(
    caller: Caller,
    State(app): State<App>,
    PathId(session): PathId<SessionId>,
) -> Result<StatusCode, Problem> {
    let (user, scope) = (caller.user.id, caller.scope());
    if app.jobs.commit(&caller.origin(), &EndSession { session, user, scope }).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::new(Code::NotFound, "You have no such session, or it is over."))
    }
}

/// Who one is and what one may do.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    /// Who.
    user: UserView,
    /// The tenant one works in.
    tenant: TenantView,
    /// As what.
    #[schema(value_type = String, example = "owner")]
    role: RoleRef,
    /// What one may do.
    #[schema(value_type = Vec<PermissionName>, example = json!(["tenant:read"]))]
    permissions: Permissions,
    /// Why one may do it: each role that grants something.
    grants: Vec<GrantView>,
    /// Whether one may do none of it before one has set up a second factor, for the tenant demands
    /// one.
    mfa_enrollment_required: bool,
    /// The sign-in.
    session: SessionView,
}

/// What a role grants to whoever has it.
#[derive(Serialize, ToSchema)]
#[schema(as = Grant)]
pub(crate) struct GrantView {
    /// The role.
    #[schema(value_type = String, example = "owner")]
    role: RoleRef,
    /// What it is called.
    #[schema(example = "Owner")]
    name: String,
    /// What it grants.
    #[schema(value_type = Vec<PermissionName>, example = json!(["tenant:read"]))]
    permissions: Permissions,
}

impl GrantView {
    fn new(grant: &Grant) -> Self {
        Self { role: grant.role, name: grant.name.clone(), permissions: grant.permissions }
    }
}

/// A sign-in.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub(crate) struct SessionView {
    /// Its id.
    #[schema(value_type = String, example = "ses_0192a0b8c0de7000800000000000cafe")]
    id: SessionId,
    /// The tenant that is worked in.
    #[schema(value_type = String, example = "ten_0192a0b8c0de7000800000000000cafe")]
    tenant_id: TenantId,
    /// What the client said it is.
    device: String,
    /// The address it came from; empty when unknown.
    ip: String,
    /// Whether it is the one that asks.
    current: bool,
    /// Since when.
    #[schema(format = DateTime)]
    created_at: String,
    /// When the person last proved who they are; sensitive changes want that to be a moment ago.
    #[schema(format = DateTime)]
    authenticated_at: String,
    /// When it was last used, give or take a minute.
    #[schema(format = DateTime)]
    last_seen_at: String,
    /// When it ends unless it is used before.
    #[schema(format = DateTime)]
    idle_expires_at: String,
    /// Until when at most.
    #[schema(format = DateTime)]
    expires_at: String,
}

impl SessionView {
    fn new(session: &Session, current: SessionId) -> Self {
        Self {
            id: session.id,
            tenant_id: session.tenant_id,
            device: session.device.clone(),
            ip: session.ip.clone(),
            current: session.id == current,
            created_at: rfc3339(session.created_at),
            authenticated_at: rfc3339(session.authenticated_at()),
            last_seen_at: rfc3339(session.last_seen_at.unwrap_or(session.created_at)),
            idle_expires_at: rfc3339(session.idle_expires_at()),
            expires_at: rfc3339(session.expires_at),
        }
    }
}

/// See who one is.
#[utoipa::path(
    get, path = "/api/auth/me", tag = "Session",
    responses((status = 200, description = "Who one is, where, and what one may do there.", body = Me))
)]
pub(crate) async fn me(caller: Caller) -> Answer<Me> {
    let role = caller.membership.role;
    Answer(Me {
        user: UserView::new(&caller.user),
        tenant: TenantView::new(&caller.tenant, role),
        role,
        permissions: caller.grant.permissions,
        grants: vec![GrantView::new(&caller.grant)],
        mfa_enrollment_required: caller.lacks_second_factor(),
        session: SessionView::new(&caller.session, caller.session.id),
    })
}
