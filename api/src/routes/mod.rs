//! Every route there is, and the layers around them.

mod custom_roles;
mod documentation;
mod email_changes;
mod invitations;
mod invite_links;
mod joining;
mod members;
mod mfa;
mod ownership;
mod pages;
mod passkeys;
mod passwords;
mod reauthentication;
mod registrations;
mod sessions;
mod signing_keys;
mod tenant_domains;
mod tenant_security;
mod tenants;
mod users;

use axum::{Router, extract::DefaultBodyLimit, middleware::from_fn_with_state};
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouter},
    routes,
};

pub(crate) use self::signing_keys::JWKS_KEPT_FOR;
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
        Self {
            id: path.split("::").map(str::trim).collect::<Vec<_>>().join("_"),
            need,
            recent,
            handler: documented,
        }
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
        .with(route!(registrations::register))
        .with(route!(registrations::verify_email))
        .with(route!(registrations::resend))
        .with(route!(passwords::forgot))
        .with(route!(passwords::reset))
        .with(route!(passwords::change))
        .with(route!(email_changes::ask))
        .with(route!(email_changes::confirm))
        .with(route!(email_changes::cancel))
        .with(route!(sessions::login))
        .with(route!(sessions::refresh))
        .with(route!(sessions::logout))
        .with(route!(sessions::logout_all))
        .with(route!(sessions::switch_tenant))
        .with(route!(sessions::list))
        .with(route!(sessions::end))
        .with(route!(sessions::me))
        .with(route!(reauthentication::reauthenticate))
        .with(route!(mfa::verify))
        .with(route!(mfa::list))
        .with(route!(mfa::enroll_totp))
        .with(route!(mfa::confirm_totp))
        .with(route!(mfa::remove_totp))
        .with(route!(mfa::replace_recovery_codes))
        .with(route!(passkeys::enroll))
        .with(route!(passkeys::add))
        .with(route!(passkeys::remove))
        .with(route!(passkeys::options))
        .with(route!(passkeys::login))
        .with(route!(tenants::current))
        .with(route!(members::list))
        .with(route!(members::update))
        .with(route!(members::remove))
        .with(route!(members::leave))
        .with(route!(invitations::invite))
        .with(route!(invitations::list))
        .with(route!(invitations::cancel))
        .with(route!(invitations::resend))
        .with(route!(invitations::invite_list))
        .with(route!(invitations::list_progress))
        .with(route!(invite_links::create))
        .with(route!(invite_links::list))
        .with(route!(invite_links::delete))
        .with(route!(invite_links::preview))
        .with(route!(invite_links::join))
        .with(route!(joining::preview))
        .with(route!(joining::accept))
        .with(route!(ownership::list))
        .with(route!(ownership::offer))
        .with(route!(ownership::accept))
        .with(route!(ownership::cancel))
        .with(route!(custom_roles::list))
        .with(route!(custom_roles::create))
        .with(route!(custom_roles::see))
        .with(route!(custom_roles::update))
        .with(route!(custom_roles::delete))
        .with(route!(tenant_domains::list))
        .with(route!(tenant_domains::add))
        .with(route!(tenant_domains::verify))
        .with(route!(tenant_domains::update))
        .with(route!(tenant_domains::remove))
        .with(route!(tenant_domains::joinable))
        .with(route!(tenant_domains::join))
        .with(route!(tenant_security::see))
        .with(route!(tenant_security::change))
        .0
}

/// The routes of the API that answer from memory.
fn from_memory() -> OpenApiRouter<App> {
    Routes::new().with(route!(signing_keys::jwks)).0
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
