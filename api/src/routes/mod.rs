//! The list of routes, and the layers around them.

mod documentation;
mod identity;
mod pages;
mod tenancy;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouter},
    routes,
};

pub(crate) use self::identity::signing_keys::JWKS_KEPT_FOR;
use crate::{
    extract::{
        Access, Account, ApiKeysWrite, Caller, Open, OwnerFromAnywhere, Perhaps, Recent, Requires,
        RolesRead, RolesWrite, SecurityWrite, SessionHolder, Stated, TenantRead, TenantTransfer,
        UsersDelete, UsersInvite, UsersRead, UsersWrite, query,
    },
    middleware::{BODY_BYTES_MAX, headers, limits, observe, rate_limits},
    openapi,
    state::App,
};

/// Routes under this path reject query parameters that they do not read.
const API: &str = "/api/";

/// A handler with its path and its description.
struct Route(UtoipaMethodRouter<App>);

impl Route {
    /// Describes a `handler` whose first argument is of type `A`.
    fn new<A: Access, Args, H: Stated<Args, Access = A>>(
        name: &str,
        _: &H,
        documented: UtoipaMethodRouter<App>,
    ) -> Self {
        // Generated clients name the operation by the handler's module and function.
        let parts: Vec<&str> = name.split("::").map(str::trim).collect();
        let id = parts[parts.len().saturating_sub(2)..].join("_");
        let (schemas, mut paths, mut handler) = documented;
        let is_query = |parameter: &Parameter| parameter.parameter_in == ParameterIn::Query;
        let reads_query = H::parameters().iter().any(is_query);
        for (path, item) in &mut paths.paths {
            let rejects_query = path.starts_with(API) && !reads_query;
            let is_limited = rate_limits::applies_to(path);
            openapi::describe::<A, Args, H>(item, &id, rejects_query, is_limited);
            if rejects_query {
                handler = handler
                    .route_layer(from_fn(|request, next| query::reject(A::NEED, request, next)));
            }
        }
        Self((schemas, paths, handler))
    }
}

/// A [`Route`]: its handler, and what it requires of its caller. The latter is the handler's first
/// argument; if the two differ, the route does not compile.
macro_rules! route {
    ($($part:ident)::+, $access:ty) => {
        Route::new::<$access, _, _>(stringify!($($part)::+), &$($part)::+, routes!($($part)::+))
    };
}

fn router(routes: impl IntoIterator<Item = Route>) -> OpenApiRouter<App> {
    routes.into_iter().fold(OpenApiRouter::new(), |router, Route(route)| router.routes(route))
}

/// Every route of the API that needs the database, and who may call it.
fn with_database() -> OpenApiRouter<App> {
    router(vec![
        route!(identity::registrations::register, Open),
        route!(identity::registrations::verify_email, Open),
        route!(identity::registrations::resend, Open),
        route!(identity::passwords::forgot, Open),
        route!(identity::passwords::reset, Open),
        route!(identity::passwords::change, Account),
        route!(identity::email_changes::ask, Recent<Account>),
        route!(identity::email_changes::confirm, Open),
        route!(identity::email_changes::cancel, Open),
        route!(identity::sessions::login, Open),
        route!(identity::sessions::refresh, Open),
        route!(identity::sessions::logout, SessionHolder),
        route!(identity::sessions::logout_all, SessionHolder),
        route!(identity::sessions::switch_tenant, SessionHolder),
        route!(identity::sessions::list, Account),
        route!(identity::sessions::end, Account),
        route!(identity::sessions::me, Account),
        route!(identity::sessions::change_me, Account),
        route!(identity::reauthentication::reauthenticate, OwnerFromAnywhere<Account>),
        route!(identity::mfa::verify, Open),
        route!(identity::mfa::list, Account),
        route!(identity::mfa::enroll_totp, Recent<Account>),
        route!(identity::mfa::confirm_totp, Recent<Account>),
        route!(identity::mfa::remove_totp, Recent<Account>),
        route!(identity::mfa::replace_recovery_codes, Recent<Account>),
        route!(identity::passkeys::enroll, Recent<Account>),
        route!(identity::passkeys::add, Recent<Account>),
        route!(identity::passkeys::remove, Recent<Account>),
        route!(identity::passkeys::options, Open),
        route!(identity::passkeys::login, Open),
        route!(tenancy::tenants::list, Account),
        route!(tenancy::tenants::create, Account),
        route!(tenancy::tenants::current, Requires<TenantRead>),
        route!(tenancy::members::list, Requires<UsersRead>),
        route!(tenancy::members::update, Requires<UsersWrite>),
        route!(tenancy::members::remove, Requires<UsersDelete>),
        route!(tenancy::members::leave, Caller),
        route!(tenancy::invitations::invite, Requires<UsersInvite>),
        route!(tenancy::invitations::list, Requires<UsersInvite>),
        route!(tenancy::invitations::cancel, Requires<UsersInvite>),
        route!(tenancy::invitations::resend, Requires<UsersInvite>),
        route!(tenancy::invitations::invite_list, Requires<UsersInvite>),
        route!(tenancy::invitations::list_progress, Requires<UsersInvite>),
        route!(tenancy::invite_links::create, Requires<UsersInvite>),
        route!(tenancy::invite_links::list, Requires<UsersInvite>),
        route!(tenancy::invite_links::delete, Requires<UsersInvite>),
        route!(tenancy::invite_links::preview, Open),
        route!(tenancy::invite_links::join, Open),
        route!(identity::joining::preview, Open),
        route!(identity::joining::accept, Perhaps),
        route!(tenancy::ownership::list, Caller),
        route!(tenancy::ownership::offer, Recent<Requires<TenantTransfer>>),
        route!(tenancy::ownership::accept, Recent<Caller>),
        route!(tenancy::ownership::cancel, Caller),
        route!(tenancy::roles::list, Requires<RolesRead>),
        route!(tenancy::roles::create, Requires<RolesWrite>),
        route!(tenancy::roles::see, Requires<RolesRead>),
        route!(tenancy::roles::update, Requires<RolesWrite>),
        route!(tenancy::roles::delete, Requires<RolesWrite>),
        route!(tenancy::api_keys::list, Requires<ApiKeysWrite>),
        route!(tenancy::api_keys::create, Recent<Requires<ApiKeysWrite>>),
        route!(tenancy::api_keys::see, Requires<ApiKeysWrite>),
        route!(tenancy::api_keys::update, Requires<ApiKeysWrite>),
        route!(tenancy::api_keys::revoke, Requires<ApiKeysWrite>),
        route!(tenancy::api_keys::rotate, Recent<Requires<ApiKeysWrite>>),
        route!(tenancy::api_keys::adopt, Recent<Requires<ApiKeysWrite>>),
        route!(tenancy::api_keys::usage, Requires<ApiKeysWrite>),
        route!(tenancy::api_keys::report, Open),
        route!(tenancy::tenant_domains::list, Requires<SecurityWrite>),
        route!(tenancy::tenant_domains::add, Requires<SecurityWrite>),
        route!(tenancy::tenant_domains::verify, Requires<SecurityWrite>),
        route!(tenancy::tenant_domains::update, Recent<Requires<SecurityWrite>>),
        route!(tenancy::tenant_domains::remove, Requires<SecurityWrite>),
        route!(tenancy::tenant_domains::joinable, Account),
        route!(tenancy::tenant_domains::join, Account),
        route!(tenancy::tenant_security::see, OwnerFromAnywhere<Requires<SecurityWrite>>),
        route!(
            tenancy::tenant_security::change,
            OwnerFromAnywhere<Recent<Requires<SecurityWrite>>>
        ),
    ])
}

/// The routes of the API that need no database.
fn from_memory() -> OpenApiRouter<App> {
    router([route!(identity::signing_keys::jwks, Open)])
}

/// The API with its document. Both come from the same list, so they always have the same routes.
pub(crate) fn documented() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::preamble()).merge(with_database()).merge(from_memory())
}

/// Everything that the public listener serves.
pub(crate) fn all(app: App) -> Router {
    let (memory, _) = from_memory().split_for_parts();
    let (database, _) = with_database().split_for_parts();
    let database = database
        .route_layer(from_fn_with_state(app.clone(), rate_limits::limit))
        .route_layer(from_fn_with_state(app.clone(), limits::with_database));
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
