//! Every route there is, and the layers around them.

mod documentation;
mod identity;
mod pages;
mod tenancy;

use axum::{Router, extract::DefaultBodyLimit, middleware::from_fn_with_state};
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouter},
    routes,
};

pub(crate) use self::identity::signing_keys::JWKS_KEPT_FOR;
use crate::{
    extract::{BODY_BYTES_MAX, Need, Stated, need_of},
    middleware::{headers, limits, observe},
    openapi,
    state::App,
};

/// A documented handler, and what it demands of its callers.
struct Route {
    /// Module and function, with an underscore between: what clients that are generated call it.
    id: String,
    need: Need,
    recent: bool,
    handler: UtoipaMethodRouter<App>,
}

impl Route {
    /// Only for a handler whose type says what it demands.
    fn new<Args, H: Stated<Args>>(
        path: &str,
        handler: &H,
        documented: UtoipaMethodRouter<App>,
    ) -> Self {
        let (need, recent) = need_of(handler);
        let parts: Vec<&str> = path.split("::").map(str::trim).collect();
        let id = parts[parts.len().saturating_sub(2)..].join("_");
        Self { id, need, recent, handler: documented }
    }
}

/// The [`Route`] of a handler, named once.
macro_rules! route {
    ($($part:ident)::+) => { Route::new(stringify!($($part)::+), &$($part)::+, routes!($($part)::+)) };
}

/// Documented routes, each with what it demands.
struct Routes(OpenApiRouter<App>);

impl Routes {
    fn new() -> Self {
        Self(OpenApiRouter::new())
    }

    /// Adds a route; the document says what it demands.
    fn with(self, route: Route) -> Self {
        let (schemas, mut paths, handler) = route.handler;
        paths
            .paths
            .values_mut()
            .for_each(|path| openapi::demand(path, &route.id, route.need, route.recent));
        Self(self.0.routes((schemas, paths, handler)))
    }
}

/// The routes of the API that need the database.
fn with_database() -> OpenApiRouter<App> {
    Routes::new()
        .with(route!(identity::registrations::register))
        .with(route!(identity::registrations::verify_email))
        .with(route!(identity::registrations::resend))
        .with(route!(identity::passwords::forgot))
        .with(route!(identity::passwords::reset))
        .with(route!(identity::passwords::change))
        .with(route!(identity::email_changes::ask))
        .with(route!(identity::email_changes::confirm))
        .with(route!(identity::email_changes::cancel))
        .with(route!(identity::sessions::login))
        .with(route!(identity::sessions::refresh))
        .with(route!(identity::sessions::logout))
        .with(route!(identity::sessions::logout_all))
        .with(route!(identity::sessions::switch_tenant))
        .with(route!(identity::sessions::list))
        .with(route!(identity::sessions::end))
        .with(route!(identity::sessions::me))
        .with(route!(identity::reauthentication::reauthenticate))
        .with(route!(identity::mfa::verify))
        .with(route!(identity::mfa::list))
        .with(route!(identity::mfa::enroll_totp))
        .with(route!(identity::mfa::confirm_totp))
        .with(route!(identity::mfa::remove_totp))
        .with(route!(identity::mfa::replace_recovery_codes))
        .with(route!(identity::passkeys::enroll))
        .with(route!(identity::passkeys::add))
        .with(route!(identity::passkeys::remove))
        .with(route!(identity::passkeys::options))
        .with(route!(identity::passkeys::login))
        .with(route!(tenancy::tenants::current))
        .with(route!(tenancy::members::list))
        .with(route!(tenancy::members::update))
        .with(route!(tenancy::members::remove))
        .with(route!(tenancy::members::leave))
        .with(route!(tenancy::invitations::invite))
        .with(route!(tenancy::invitations::list))
        .with(route!(tenancy::invitations::cancel))
        .with(route!(tenancy::invitations::resend))
        .with(route!(tenancy::invitations::invite_list))
        .with(route!(tenancy::invitations::list_progress))
        .with(route!(tenancy::invite_links::create))
        .with(route!(tenancy::invite_links::list))
        .with(route!(tenancy::invite_links::delete))
        .with(route!(tenancy::invite_links::preview))
        .with(route!(tenancy::invite_links::join))
        .with(route!(tenancy::joining::preview))
        .with(route!(tenancy::joining::accept))
        .with(route!(tenancy::ownership::list))
        .with(route!(tenancy::ownership::offer))
        .with(route!(tenancy::ownership::accept))
        .with(route!(tenancy::ownership::cancel))
        .with(route!(tenancy::roles::list))
        .with(route!(tenancy::roles::create))
        .with(route!(tenancy::roles::see))
        .with(route!(tenancy::roles::update))
        .with(route!(tenancy::roles::delete))
        .with(route!(tenancy::tenant_domains::list))
        .with(route!(tenancy::tenant_domains::add))
        .with(route!(tenancy::tenant_domains::verify))
        .with(route!(tenancy::tenant_domains::update))
        .with(route!(tenancy::tenant_domains::remove))
        .with(route!(tenancy::tenant_domains::joinable))
        .with(route!(tenancy::tenant_domains::join))
        .with(route!(tenancy::tenant_security::see))
        .with(route!(tenancy::tenant_security::change))
        .0
}

/// The routes of the API that answer from memory.
fn from_memory() -> OpenApiRouter<App> {
    Routes::new().with(route!(identity::signing_keys::jwks)).0
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
