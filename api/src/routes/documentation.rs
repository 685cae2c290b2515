//! The OpenAPI document and a page to read it.

use std::sync::LazyLock;

use axum::{
    Router,
    http::{HeaderValue, header},
    middleware::{from_fn, map_response},
    response::{IntoResponse, Response},
    routing::get,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::{
    extract::{Need, query},
    openapi,
    state::App,
};

const DOCUMENT: &str = "/api/openapi.json";
const PAGE: &str = "/api/docs";
/// Swagger UI consists of scripts of this origin, which fetch the document and can call the API. The
/// hash is that of the style of its logo.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'sha256-RL3ie0nH+Lzz2YNqQN83mnU0J1ot4QL7b99vMdIX99w='; img-src 'self' data:; font-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

static JSON: LazyLock<String> = LazyLock::new(openapi::json);

/// `GET /api/openapi.json` and `GET /api/docs`.
pub(super) fn routes() -> Router<App> {
    let page: Router<App> = SwaggerUi::new(PAGE).config(Config::from(DOCUMENT)).into();
    page.layer(map_response(with_policy)).route(
        DOCUMENT,
        get(document).layer(from_fn(|request, next| query::reject(Need::Nothing, request, next))),
    )
}

async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], JSON.as_str()).into_response()
}

async fn with_policy(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    response
}
