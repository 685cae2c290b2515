//! The holder of a session, who can prove it by the refresh token instead of an access token.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use common::{
    crypto::PresentedToken,
    db::TenantScope,
    id::{SessionId, UserId},
    origin::Origin,
};
use domain::{
    identity::refresh::{self, RefreshError},
    people::{sessions::Session, users::User},
};

use super::{Account, Client, auth, client::client_of, json::is_json};
use crate::{
    answers::{
        refresh_cookie::{self, Sent},
        sign_in::TokenDelivery,
    },
    problem::{ForeignOrigin, Problem},
    state::App,
};

/// The refresh tokens in the cookies of a request.
pub(crate) struct RefreshCookies {
    sent: Sent,
    /// Whether a page of another site sent the request: browsers send the origin of the page.
    is_foreign: bool,
}

/// Refresh tokens that a client presents.
pub(crate) struct Presented {
    pub(crate) tokens: Vec<PresentedToken>,
    /// How the client sent them.
    pub(crate) by: TokenDelivery,
}

impl RefreshCookies {
    fn of(parts: &Parts, app: &App) -> Self {
        let origin = parts.headers.get(header::ORIGIN);
        Self {
            sent: refresh_cookie::sent(&parts.headers),
            is_foreign: origin.is_some_and(|origin| origin.as_bytes() != app.origin.as_bytes()),
        }
    }

    /// Whether there were too many cookies to read them all, so a valid one may be left.
    pub(crate) const fn are_cut(&self) -> bool {
        self.sent.is_cut
    }

    /// The token in the body if there is one, and otherwise those in the cookies, which are
    /// accepted only from pages of this installation.
    pub(crate) fn or(self, in_body: Option<&str>) -> Result<Presented, ForeignOrigin> {
        match in_body {
            Some(text) => {
                let tokens = PresentedToken::read(text).into_iter().collect();
                Ok(Presented { tokens, by: TokenDelivery::Body })
            }
            None if self.is_foreign => Err(ForeignOrigin),
            None => Ok(Presented { tokens: self.sent.tokens, by: TokenDelivery::Cookie }),
        }
    }

    /// As [`Self::or`], after the access token was `refused`.
    fn after(self, refused: Problem, in_body: Option<&str>) -> Result<Presented, Problem> {
        if in_body.is_none() && self.sent.tokens.is_empty() {
            return Err(refused);
        }
        Ok(self.or(in_body)?)
    }
}

impl FromRequestParts<App> for RefreshCookies {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        Ok(Self::of(parts, app))
    }
}

/// The user of a session, from any IP address. The refresh token alone, in the cookie or in the
/// body, is enough, so neither the tenant's allowlist nor an expired access token prevents its
/// members from signing out or from switching to another tenant.
pub(crate) struct SessionHolder {
    by_access_token: Result<Session, Problem>,
    cookies: RefreshCookies,
    client: Client,
}

/// What proves that a client holds a session.
pub(crate) enum Proof {
    AccessToken(Account),
    RefreshToken(Presented),
}

/// The owner of a live session. They can end it whatever the state of its tenant.
pub(crate) struct SessionOwner {
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
    /// Scope of the tenant that they are signed in to, if any.
    pub(crate) scope: Option<TenantScope>,
    /// Origin of the changes that they make by this request.
    pub(crate) origin: Origin,
}

impl SessionHolder {
    /// The access token if it is valid, and otherwise the refresh token. `in_body` is the refresh
    /// token in the body, if any.
    pub(crate) async fn proof(self, app: &App, in_body: Option<&str>) -> Result<Proof, Problem> {
        let account = match self.by_access_token {
            Ok(session) => auth::account_in(app, &session, self.client).await,
            Err(refused) => Err(refused),
        };
        match account {
            Ok(account) => Ok(Proof::AccessToken(account)),
            Err(refused) => Ok(Proof::RefreshToken(self.cookies.after(refused, in_body)?)),
        }
    }

    /// The owner of the session. The refresh token stays valid.
    pub(crate) async fn owner(
        self,
        app: &App,
        in_body: Option<&str>,
    ) -> Result<SessionOwner, Problem> {
        let session = match self.by_access_token {
            Ok(session) => session,
            Err(refused) => {
                let Presented { tokens, .. } = self.cookies.after(refused, in_body)?;
                let grace = app.auth.refresh_grace;
                let session = refresh::session_of(app.store(), &app.key, grace, &tokens).await?;
                session.ok_or(RefreshError::Invalid)?
            }
        };
        let user = User::by_id(app.store(), session.user_id).await?;
        let user = user.ok_or_else(|| Problem::unauthenticated(true))?;
        Ok(SessionOwner {
            user: user.id,
            session: session.id,
            scope: TenantScope::of_row_if_any(&session),
            origin: self.client.origin().by(user.id.into(), &user.name),
        })
    }
}

impl FromRequestParts<App> for SessionHolder {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let by_access_token = auth::session_of(parts, app).await;
        let cookies = RefreshCookies::of(parts, app);
        match by_access_token {
            // There is no refresh token in a cookie, and no body that could contain one.
            Err(refused) if cookies.sent.tokens.is_empty() && !is_json(&parts.headers) => {
                Err(refused)
            }
            by_access_token => Ok(Self { by_access_token, cookies, client: client_of(parts, app) }),
        }
    }
}
