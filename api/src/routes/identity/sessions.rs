//! Sessions: signing in and out, refreshing, switching tenants, and the current user.

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{
    clock::Timestamp,
    crypto::{Password, PresentedToken},
    email::Email,
    id::{SessionId, TenantId},
    name::Name,
    telemetry::metrics,
};
use domain::{
    access::throttle::TooMany,
    identity::{
        accounts::ChangeName,
        mfa::challenges::Purpose,
        refresh::{self, RefreshError, RefreshSession, Refreshed},
        sign_in::{Attempt, SignInError, SignedIn, SwitchTenant},
        sign_out::{EndSession, SignOut, SignOutAll},
    },
    people::{sessions::Session, users::User},
    tenancy::{
        roles::{Grant, Permissions, RoleRef},
        tenant_security::sessions_of,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::{
        page::List,
        refresh_cookie,
        sign_in::{SignedInView, TokenDelivery, lifetime, signed_in, signed_out},
        tenants::TenantView,
        users::UserView,
    },
    extract::{
        Account, Client, Fields, FromFields, Json, NotAmong, Open, OptionalJson, PathId, Presented,
        Proof, RefreshCookies, SessionHolder, SessionOwner,
    },
    problem::{FieldError, NoSuchSession, Problem, RefreshTokenReused, Refusals},
    second_factors,
    state::App,
    throttle::Guard,
};

#[derive(ToSchema)]
pub(crate) struct Login {
    email: Email,
    password: Password,
    /// The tenant to sign in to. The default is the user's first active tenant.
    tenant_id: Option<TenantId>,
    /// Stay signed in for weeks, and after the browser is closed.
    remember_me: Option<bool>,
    token_delivery: Option<TokenDelivery>,
}

impl FromFields for Login {
    fn read(fields: &mut Fields) -> Option<Self> {
        // Short passwords are checked as well: the minimum length applies to new passwords only.
        let email = fields.required("email");
        let password = fields.required_password("password", Password::presented);
        let (tenant_id, remember_me) =
            (fields.optional("tenant_id"), fields.optional_bool("remember_me"));
        let token_delivery = fields.optional("token_delivery");
        Some(Self { email: email?, password: password?, tenant_id, remember_me, token_delivery })
    }
}

/// Sign in
///
/// Signs in with email address and password. For an account with a second factor, this returns
/// `mfa_required`: send its `mfa_token` to `POST /api/auth/mfa/verify` to finish signing in.
///
/// The response to wrong credentials is the same whether or not the account exists, and so is
/// `too_many_attempts` after too many failures. An account that is throttled can still be used from
/// networks that its owner has signed in from before.
#[utoipa::path(
    post, path = "/api/auth/login", tag = "Sign-in", request_body = Login,
    responses(
        (status = 200, description = "Signed in.", body = SignedInView, headers(("Set-Cookie" = String, description = "The refresh token, if it is delivered as a cookie."))),
        Refusals<(SignInError, TooMany)>,
    )
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
            Err(second_factors::required(&app, Purpose::SignIn(admitted.begin)).await)
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(ToSchema)]
pub(crate) struct RefreshBody {
    /// The refresh token, if it was delivered in a body. Browsers send their cookie instead.
    refresh_token: Option<String>,
    /// Where to deliver the next refresh token. The default is where this one was delivered.
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

/// Refresh the session
///
/// Exchanges the refresh token for an access token and the next refresh token. Each refresh token
/// can be used once. If a client does not receive the response, it can send the same token again
/// within a few seconds and gets the same successor. Using a replaced token later returns
/// `token_reused` and ends the session, because the token may have been stolen.
///
/// After `ip_not_allowed` the refresh token remains valid.
#[utoipa::path(
    post, path = "/api/auth/refresh", tag = "Sign-in", request_body = Option<RefreshBody>,
    responses(
        (status = 200, description = "The session continues.", body = SignedInView, headers(("Set-Cookie" = String, description = "The refresh token, if it is delivered as a cookie."))),
        Refusals<(RefreshError, RefreshTokenReused)>,
    )
)]
pub(crate) async fn refresh(
    _: Open,
    State(app): State<App>,
    client: Client,
    cookies: RefreshCookies,
    OptionalJson(body): OptionalJson<RefreshBody>,
) -> Result<Response, Problem> {
    let by_cookie = body.refresh_token.is_none();
    if by_cookie && body.token_delivery == Some(TokenDelivery::Body) {
        // Scripts cannot read the cookie, so they must not be able to exchange it for a token that
        // they can read.
        let error = FieldError::invalid("token_delivery", &NotAmong(&["cookie"]));
        return Err(Problem::fields(vec![error]));
    }
    let may_clear = by_cookie && !cookies.are_cut();
    let Presented { tokens, by } = cookies.or(body.refresh_token.as_deref())?;
    let token = refresh::choose(app.store(), &app.key, app.auth.refresh_grace, &tokens).await?;
    let Some(token) = token else { return Err(RefreshError::Invalid.into()) };
    match resume(&app, token, None, &client).await {
        Ok(someone) => signed_in(&app, &someone, Some(body.token_delivery.unwrap_or(by))),
        // Not after a race or an outage: then the cookie remains valid.
        Err(problem) if may_clear && problem.status() == StatusCode::UNAUTHORIZED => {
            let mut response = problem.into_response();
            refresh_cookie::clear(&app, &mut response);
            Ok(response)
        }
        Err(problem) => Err(problem),
    }
}

/// Exchanges the token, and continues in the tenant `into` if one is given.
async fn resume(
    app: &App,
    token: PresentedToken,
    into: Option<TenantId>,
    client: &Client,
) -> Result<SignedIn, Problem> {
    let refresh = RefreshSession {
        key: &app.key,
        token,
        grace: app.auth.refresh_grace,
        address: client.address,
        into,
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
            Err(RefreshTokenReused.into())
        }
    }
}

#[derive(ToSchema)]
pub(crate) struct SignOutBody {
    /// The refresh token, if the client has no valid access token. Browsers send their cookie
    /// instead.
    refresh_token: Option<String>,
}

impl FromFields for SignOutBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { refresh_token: fields.optional_text("refresh_token") })
    }
}

/// Sign out
///
/// Ends the session. Its access tokens are rejected from now on.
#[utoipa::path(
    post, path = "/api/auth/logout", tag = "Sign-in", request_body = Option<SignOutBody>,
    responses((status = 204, description = "Signed out."))
)]
pub(crate) async fn logout(
    holder: SessionHolder,
    State(app): State<App>,
    OptionalJson(body): OptionalJson<SignOutBody>,
) -> Result<Response, Problem> {
    let SessionOwner { user, session, scope, origin } =
        holder.owner(&app, body.refresh_token.as_deref()).await?;
    app.jobs.commit(&origin, &SignOut { session, user, scope }).await?;
    Ok(signed_out(&app))
}

/// Sign out everywhere
///
/// Ends all sessions of the user, in all tenants.
#[utoipa::path(
    post, path = "/api/auth/logout-all", tag = "Sign-in", request_body = Option<SignOutBody>,
    responses((status = 204, description = "Signed out everywhere."))
)]
pub(crate) async fn logout_all(
    holder: SessionHolder,
    State(app): State<App>,
    OptionalJson(body): OptionalJson<SignOutBody>,
) -> Result<Response, Problem> {
    let SessionOwner { user, scope, origin, .. } =
        holder.owner(&app, body.refresh_token.as_deref()).await?;
    app.jobs.commit(&origin, &SignOutAll { user, scope, kept: None }).await?;
    Ok(signed_out(&app))
}

#[derive(ToSchema)]
pub(crate) struct Switch {
    tenant_id: TenantId,
    /// The refresh token, if the client has no valid access token. Browsers send their cookie
    /// instead.
    refresh_token: Option<String>,
}

impl FromFields for Switch {
    fn read(fields: &mut Fields) -> Option<Self> {
        let tenant_id = fields.required("tenant_id");
        let refresh_token = fields.optional_text("refresh_token");
        Some(Self { tenant_id: tenant_id?, refresh_token })
    }
}

/// Switch tenant
///
/// Continues the session in another tenant of the user. Access tokens for the previous tenant are
/// rejected from now on. If the switch is rejected, the session stays in the current tenant.
///
/// With an access token, the refresh token remains valid. The refresh token alone is exchanged as
/// by `POST /api/auth/refresh`, and the next one is delivered in the same way, as a cookie or in
/// the body.
#[utoipa::path(
    post, path = "/api/auth/switch-tenant", tag = "Sign-in", request_body = Switch,
    responses(
        (status = 200, description = "The session continues in the tenant.", body = SignedInView, headers(("Set-Cookie" = String, description = "The refresh token, if it was sent as a cookie and exchanged."))),
        Refusals<(SignInError, RefreshError, RefreshTokenReused)>,
    )
)]
pub(crate) async fn switch_tenant(
    holder: SessionHolder,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Switch>,
) -> Result<Response, Problem> {
    let account = match holder.proof(&app, body.refresh_token.as_deref()).await? {
        Proof::AccessToken(account) => account,
        Proof::RefreshToken(Presented { tokens, by }) => {
            let grace = app.auth.refresh_grace;
            let token = refresh::choose(app.store(), &app.key, grace, &tokens).await?;
            let token = token.ok_or(RefreshError::Invalid)?;
            let someone = resume(&app, token, Some(body.tenant_id), &client).await?;
            return signed_in(&app, &someone, Some(by));
        }
    };
    let switch = SwitchTenant {
        session: account.session.id,
        user: account.user.id,
        tenant: body.tenant_id,
        address: client.address,
    };
    let session = app.jobs.commit(&account.origin(), &switch).await?;
    signed_in(&app, &SignedIn::resume(app.store(), session).await?, None)
}

/// List sessions
///
/// Lists all active sessions of the user, in all tenants, newest first.
#[utoipa::path(
    get, path = "/api/auth/sessions", tag = "Sign-in",
    responses((status = 200, description = "The sessions.", body = List<SessionView>))
)]
pub(crate) async fn list(
    account: Account,
    State(app): State<App>,
) -> Result<Answer<List<SessionView>>, Problem> {
    let sessions = sessions_of(app.store(), account.user.id).await?;
    let views = sessions.iter().map(|session| SessionView::new(session, account.session.id));
    Ok(Answer(views.collect()))
}

/// End a session
///
/// Signs the user out of one of their sessions.
#[utoipa::path(
    delete, path = "/api/auth/sessions/{id}", tag = "Sign-in",
    responses((status = 204, description = "The session has ended."), Refusals<NoSuchSession>)
)]
pub(crate) async fn end(
    account: Account,
    State(app): State<App>,
    PathId(session): PathId<SessionId>,
) -> Result<StatusCode, Problem> {
    let (user, scope) = (account.user.id, account.scope());
    let ended = app.jobs.commit(&account.origin(), &EndSession { session, user, scope }).await?;
    if ended { Ok(StatusCode::NO_CONTENT) } else { Err(NoSuchSession.into()) }
}

/// The current user and their permissions in the tenant of the session.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    user: UserView,
    /// The tenant of the session. Null if it is in none.
    tenant: Option<TenantView>,
    /// The user's role in the tenant. Null without a tenant.
    role: Option<RoleRef>,
    permissions: Permissions,
    /// The roles that grant these permissions.
    grants: Vec<GrantView>,
    /// Whether the user must set up a second factor before they can use these permissions.
    mfa_enrollment_required: bool,
    session: SessionView,
}

impl Me {
    /// The caller, whose account is now `user`.
    fn new(caller: &Account, user: &User) -> Self {
        let tenancy = caller.tenancy.as_deref();
        let role = tenancy.map(|tenancy| tenancy.membership.role);
        Self {
            user: UserView::new(user),
            tenant: tenancy.zip(role).map(|(tenancy, role)| TenantView::new(&tenancy.tenant, role)),
            role,
            permissions: tenancy.map_or(Permissions::NONE, |tenancy| tenancy.grant.permissions),
            grants: tenancy.map(|tenancy| GrantView::new(&tenancy.grant)).into_iter().collect(),
            mfa_enrollment_required: caller.lacks_second_factor(),
            session: SessionView::new(&caller.session, caller.session.id),
        }
    }
}

/// The permissions that a role grants.
#[derive(Serialize, ToSchema)]
#[schema(as = Grant)]
pub(crate) struct GrantView {
    role: RoleRef,
    /// Name of the role.
    #[schema(example = "Owner")]
    name: String,
    permissions: Permissions,
}

impl GrantView {
    fn new(grant: &Grant) -> Self {
        Self { role: grant.role, name: grant.name.clone(), permissions: grant.permissions }
    }
}

/// A session of the user.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub(crate) struct SessionView {
    id: SessionId,
    /// The tenant that the session is in. Null if it is in none.
    tenant_id: Option<TenantId>,
    /// `User-Agent` of the client that signed in.
    device: String,
    /// IP address that the user signed in from; empty if it is unknown.
    ip: String,
    /// Whether this request belongs to the session.
    current: bool,
    created_at: Timestamp,
    /// When the user last authenticated. Sensitive changes require that this is recent.
    authenticated_at: Timestamp,
    /// When the session was last used, to the minute.
    last_seen_at: Timestamp,
    /// The session ends at this time unless it is used before.
    idle_expires_at: Timestamp,
    /// The session ends at this time at the latest.
    expires_at: Timestamp,
}

impl SessionView {
    fn new(session: &Session, current: SessionId) -> Self {
        Self {
            id: session.id,
            tenant_id: session.tenant_id,
            device: session.device.clone(),
            ip: session.ip.clone(),
            current: session.id == current,
            created_at: session.created_at.into(),
            authenticated_at: session.authenticated_at().into(),
            last_seen_at: session.last_seen_at.unwrap_or(session.created_at).into(),
            idle_expires_at: session.idle_expires_at().into(),
            expires_at: session.expires_at.into(),
        }
    }
}

/// Get the current user
///
/// Returns the user, the tenant of the session, and the permissions of the user there. Without a
/// tenant there are no permissions.
#[utoipa::path(
    get, path = "/api/auth/me", tag = "Sign-in",
    responses((status = 200, description = "The current user.", body = Me))
)]
pub(crate) async fn me(account: Account) -> Answer<Me> {
    Answer(Me::new(&account, &account.user))
}

#[derive(ToSchema)]
pub(crate) struct MyName {
    /// The new name.
    name: Name,
}

impl FromFields for MyName {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { name: fields.required("name")? })
    }
}

/// Change your name
///
/// Changes the name of the account, in all tenants of the user.
#[utoipa::path(
    put, path = "/api/auth/me", tag = "Sign-in", request_body = MyName,
    responses((status = 200, description = "The current user with the new name.", body = Me))
)]
pub(crate) async fn change_me(
    account: Account,
    State(app): State<App>,
    Json(body): Json<MyName>,
) -> Result<Answer<Me>, Problem> {
    let change = ChangeName { user: account.user.id, scope: account.scope(), name: body.name };
    let user = account.commit(&app, &change).await?;
    let user = user.ok_or_else(|| Problem::unauthenticated(true))?;
    Ok(Answer(Me::new(&account, &user)))
}
