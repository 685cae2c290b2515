//! The refresh token as a cookie for browsers: scripts cannot read it, and other sites cannot make
//! browsers send it.

use axum::http::{HeaderMap, HeaderValue, header};
use common::{clock::between, crypto::RefreshToken};
use cookie::{Cookie, SameSite};
use domain::people::sessions::Session;
use mongodb::bson::DateTime;

const NAME: &str = "refresh_token";
/// Browsers send it to these routes only.
const PATH: &str = "/api/auth";

/// The header that sets the cookie. Browsers keep it for as long as the session can last, or until
/// they are closed if the user does not want to stay signed in.
pub(crate) fn set(session: &Session, token: &RefreshToken, now: DateTime) -> HeaderValue {
    let mut cookie = ours(token.expose().to_owned());
    if session.remembered {
        let left = between(now, session.expires_at);
        cookie.set_max_age(
            cookie::time::Duration::try_from(left).unwrap_or(cookie::time::Duration::MAX),
        );
    }
    header_of(&cookie)
}

/// The header that deletes the cookie.
pub(crate) fn clear() -> HeaderValue {
    let mut cookie = ours(String::new());
    cookie.set_max_age(cookie::time::Duration::ZERO);
    header_of(&cookie)
}

/// The token in the cookie of a request.
pub(crate) fn sent(headers: &HeaderMap) -> Option<String> {
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut cookies = texts.flat_map(Cookie::split_parse).filter_map(Result::ok);
    cookies.find(|cookie| cookie.name() == NAME).map(|cookie| cookie.value().to_owned())
}

fn ours(value: String) -> Cookie<'static> {
    Cookie::build((NAME, value))
        .http_only(true)
        .secure(true)
        .same_site(SameSite::Strict)
        .path(PATH)
        .build()
}

fn header_of(cookie: &Cookie<'_>) -> HeaderValue {
    // Tokens have only letters, digits, hyphens and underscores: always a valid header.
    HeaderValue::from_str(&cookie.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}
