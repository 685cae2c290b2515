//! Every route there is, and the layers around them.

mod documentation;
mod pages;
mod passwords;
mod registrations;
mod sessions;
mod signing_keys;
mod tenants;
mod users;

use axum::{Router, extract::DefaultBodyLimit, middleware::from_fn_with_state};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    extract::BODY_BYTES_MAX,
    middleware::{headers, limits, observe},
    openapi,
    state::App,
};

/// The routes of the API that need the database.
fn with_database() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(registrations::register))
        .routes(routes!(registrations::verify_email))
        .routes(routes!(registrations::resend))
        .routes(routes!(passwords::forgot))
        .routes(routes!(passwords::reset))
        .routes(routes!(passwords::change))
        .routes(routes!(sessions::login))
        .routes(routes!(sessions::refresh))
        .routes(routes!(sessions::logout))
        .routes(routes!(sessions::logout_all))
        .routes(routes!(sessions::switch_tenant))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::end))
        .routes(routes!(sessions::me))
        .routes(routes!(tenants::current))
}

/// The routes of the API that answer from memory.
fn from_memory() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(signing_keys::jwks))
}

/// The API with its document; both come from the same list, so neither can know a route alone.
pub(crate) fn documented() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::preamble()).merge(with_database()).merge(from_memory())
}

/// Everything that is served to clients.
pub(crate) fn all(app: App) -> Router {
    let (memory, _) = from_memory().split_for_parts();
    let (database, _) = with_database().split_for_parts();
    let database = database.route_layer(from_fn_with_state(app.clone(), limits::with_database));
    Router::new()
        .merge(database)
        .merge(memory)
        .merge(pages::routes(&app))
        .merge(documentation::routes())
        .fallback(observe::unmatched)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(app.clone(), limits::limit))
        .layer(from_fn_with_state(app.clone(), headers::secure))
        .layer(from_fn_with_state(app.clone(), observe::observe))
        .with_state(app)
}
