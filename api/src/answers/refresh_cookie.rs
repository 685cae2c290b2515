//! The refresh token as a cookie for browsers: scripts cannot read it, and other sites cannot make
//! browsers send it.

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use common::{
    clock::between,
    crypto::{PresentedToken, RefreshToken},
};
use cookie::{Cookie, SameSite};
use domain::people::sessions::Session;

use crate::state::App;

/// The name on https: browsers accept it only from there, so that nobody in the network can plant it
/// (RFC 6265bis §4.1.3.1).
pub(crate) const SECURE_NAME: &str = "__Secure-refresh_token";
/// The name elsewhere, and everywhere in earlier releases.
const NAME: &str = "refresh_token";
/// Browsers send it to these routes only.
const PATH: &str = "/api/auth";
/// The most cookies of our names that are read; a browser has two at most, unless someone plants
/// them.
const SENT_MAX: usize = 8;

/// The header that sets the cookie. Browsers keep it for as long as the session can last, or until
/// they are closed if the user does not want to stay signed in.
pub(crate) fn set(app: &App, session: &Session, token: &RefreshToken) -> HeaderValue {
    let name = if app.https { SECURE_NAME } else { NAME };
    let mut cookie = ours(name, token.expose().to_owned());
    if session.remembered {
        let left = between(app.clock().now(), session.expires_at);
        cookie.set_max_age(
            cookie::time::Duration::try_from(left).unwrap_or(cookie::time::Duration::MAX),
        );
    }
    header_of(&cookie)
}

/// Deletes the cookie, under every name that it can have.
pub(crate) fn clear(app: &App, response: &mut Response) {
    let names = if app.https { [SECURE_NAME, NAME].as_slice() } else { &[NAME] };
    for name in names {
        let mut cookie = ours(name, String::new());
        cookie.set_max_age(cookie::time::Duration::ZERO);
        response.headers_mut().append(header::SET_COOKIE, header_of(&cookie));
    }
}

/// The tokens in the cookies of a request.
pub(crate) struct Sent {
    pub(crate) tokens: Vec<PresentedToken>,
    /// Whether there are more, which were not read. The live one may be among them.
    pub(crate) is_cut: bool,
}

/// The tokens in the cookies of a request. A browser may send several: an old one beside the new
/// one, or one that another host of the domain has set; their order says nothing (RFC 6265 §4.2.2).
/// The name that nobody can plant is read first, so that planted cookies do not displace it.
/// Cookies are read as bytes, because those of other applications may contain any.
pub(crate) fn sent(headers: &HeaderMap) -> Sent {
    let named = |wanted: &'static str| {
        let cookies = headers
            .get_all(header::COOKIE)
            .iter()
            .flat_map(|header| header.as_bytes().split(|byte| *byte == b';'));
        cookies.filter_map(move |cookie| {
            let (name, value) = str::from_utf8(cookie).ok()?.trim().split_once('=')?;
            (name == wanted).then_some(value)
        })
    };
    let mut found = named(SECURE_NAME).chain(named(NAME)).filter_map(PresentedToken::read);
    let tokens = found.by_ref().take(SENT_MAX).collect();
    Sent { tokens, is_cut: found.next().is_some() }
}

fn ours(name: &'static str, value: String) -> Cookie<'static> {
    Cookie::build((name, value))
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

#[cfg(test)]
mod tests {
    use common::crypto::MasterKey;

    use super::*;

    #[test]
    fn cookies_of_others_do_not_hide_ours() {
        let key = MasterKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        let session = common::id::SessionId::from_uuid(common::clock::Clock::system().uuid());
        let token = |generation| RefreshToken::issue(&key, session, b"salt", generation);
        let (first, second) = (token(1), token(2));
        let cookies = [
            format!("utm=Undersøgelse; refresh_token={}", first.expose()).into_bytes(),
            [b"bad=\xff\xfe; ".as_slice(), b"refresh_token=planted; refresh_token"].concat(),
            format!("__Secure-refresh_token={};other=1", second.expose()).into_bytes(),
        ];
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, HeaderValue::from_bytes(&cookie).unwrap());
        }
        let sent = sent(&headers);
        let generations: Vec<i64> = sent.tokens.iter().map(|token| token.generation).collect();
        assert_eq!((generations.as_slice(), sent.is_cut), ([2, 1].as_slice(), false));
    }
}
