//! The public keys that access tokens are signed with.

use std::time::Duration;

use axum::{
    Json as Answer,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::Value;

use crate::{extract::Open, state::App};

/// How long verifiers may cache the keys. They fetch them sooner if they see an unknown `kid`.
pub(crate) const JWKS_KEPT_FOR: Duration = Duration::from_mins(5);

/// List the signing keys
///
/// The public keys that access tokens are signed with, as a JSON Web Key Set (RFC 7517).
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "Sign-in",
    responses((status = 200, description = "The keys.", body = Object))
)]
pub(crate) async fn jwks(_: Open, State(app): State<App>) -> Response {
    let keys: Answer<Value> = Answer(app.keyring.jwks());
    ([(header::CACHE_CONTROL, format!("public, max-age={}", JWKS_KEPT_FOR.as_secs()))], keys)
        .into_response()
}
