//! Security headers of every response.

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::Response,
};

use crate::state::App;

/// Two years, as the preload lists of browsers require.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=63072000");
const HSTS_WITH_SUBDOMAINS: HeaderValue =
    HeaderValue::from_static("max-age=63072000; includeSubDomains");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// Responses of the API are data: browsers must not run or frame them.
const DATA_ONLY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// Adds the headers that a route has not set itself.
pub(crate) async fn secure(State(app): State<App>, request: Request, next: Next) -> Response {
    let is_api = request.uri().path().starts_with("/api/");
    let mut response = next.run(request).await;
    let mut add = |name: HeaderName, value: HeaderValue| {
        response.headers_mut().entry(name).or_insert(value);
    };
    add(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    add(header::CONTENT_SECURITY_POLICY, DATA_ONLY);
    add(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if is_api {
        add(header::CACHE_CONTROL, NO_STORE);
    }
    if app.https {
        let hsts = if app.hsts_include_subdomains { HSTS_WITH_SUBDOMAINS } else { HSTS };
        add(header::STRICT_TRANSPORT_SECURITY, hsts);
    }
    response
}
