//! The responses to signing in, in any way, and to signing out.

use std::{str::FromStr, time::Duration};

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use common::{
    clock::{Timestamp, between},
    id::SessionId,
};
use domain::{
    identity::sign_in::SignedIn,
    people::sessions::{Lifetime, Session},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{refresh_cookie, tenants::TenantView, users::UserView};
use crate::{extract::NotAmong, problem::Problem, state::App};

/// Clients are advised to refresh when this part of the access token's lifetime has passed.
const REFRESH_AT: f64 = 0.8;

/// Where the refresh token is delivered: `cookie` (for browsers; the default) or `body`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "snake_case")]
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

/// Tokens of a session, its user and their tenants.
#[derive(Serialize, ToSchema)]
#[schema(as = SignedIn)]
pub(crate) struct SignedInView {
    /// Send it as `Authorization: Bearer …`.
    access_token: String,
    /// Always `Bearer`.
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds until the access token expires.
    #[schema(example = 900)]
    expires_in: u64,
    /// The refresh token, if `token_delivery` is `body`.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    session: SessionTimes,
    user: UserView,
    /// The tenant that the access token is for. Null if it is for none, because the user was not a
    /// member of any when they signed in.
    tenant: Option<TenantView>,
    /// The first 100 tenants that the user became a member of. `GET /api/tenants` lists all.
    tenants: Vec<TenantView>,
}

/// When to refresh a session, and when it ends.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionTimes {
    id: SessionId,
    /// Seconds after which to refresh the session.
    #[schema(example = 720)]
    refresh_in: u64,
    /// The session ends at this time unless it is refreshed before.
    idle_expires_at: Timestamp,
    /// The session ends at this time at the latest.
    expires_at: Timestamp,
}

/// The response to signing in, with a refresh token if `delivery` says where to.
pub(crate) fn signed_in(
    app: &App,
    signed_in: &SignedIn,
    delivery: Option<TokenDelivery>,
) -> Result<Response, Problem> {
    let access = app.keyring.issue(signed_in)?;
    let session = &signed_in.session;
    let refresh = delivery.and_then(|delivery| Some((delivery, session.refresh_token(&app.key)?)));
    let view = SignedInView {
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
            idle_expires_at: session.idle_expires_at().into(),
            expires_at: session.expires_at.into(),
        },
        user: UserView::new(&signed_in.user),
        tenant: signed_in.current.as_ref().map(TenantView::of),
        tenants: signed_in.belongings.iter().map(TenantView::of).collect(),
    };
    let mut response = Json(view).into_response();
    if let Some((TokenDelivery::Cookie, token)) = &refresh {
        let cookie = refresh_cookie::set(app, session, token);
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// When to refresh: before the access token expires, and before the unused session ends.
fn refresh_in(token_ttl: Duration, session: &Session) -> Duration {
    let idle =
        session.last_seen_at.map_or(token_ttl, |seen| between(seen, session.idle_expires_at()));
    token_ttl.min(idle).mul_f64(REFRESH_AT)
}

/// The response to signing out. It deletes the refresh cookie of the browser.
pub(crate) fn signed_out(app: &App) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    refresh_cookie::clear(app, &mut response);
    response
}

/// The lifetime of a session that begins now.
pub(crate) fn lifetime(app: &App, remember: bool) -> Lifetime {
    let auth = &app.auth;
    if remember {
        Lifetime { absolute: auth.remembered_session_ttl, idle: auth.remembered_session_idle }
    } else {
        Lifetime { absolute: auth.session_ttl, idle: auth.session_idle }
    }
}
