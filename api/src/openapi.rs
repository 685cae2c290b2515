//! The OpenAPI document, generated from the handlers themselves.

use std::collections::BTreeMap;

use domain::tenancy::api_keys::Scope;
use serde_json::Value;
use utoipa::{
    OpenApi, ToSchema,
    openapi::{
        ObjectBuilder, PathItem, RefOr, Type,
        header::HeaderBuilder,
        path::Operation,
        security::{
            ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
        },
    },
};

use crate::{
    answers::refresh_cookie,
    extract::{Access, Need, Stated, idempotency, query},
    problem::{self, Code, FieldError, Written},
    routes,
};

/// Names of the security schemes.
const ACCESS_TOKEN: &str = "access_token";
const REFRESH_TOKEN: &str = "refresh_token";
const API_KEY: &str = "api_key";
const NO_SCOPES: [&str; 0] = [];

/// The document without its paths.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tenantry",
        description = "Errors are problem details (RFC 9457). Programs should branch on `code`; people can read `title` and \
                       `detail`. Include the `request_id` when you contact support. Times are in UTC (RFC 3339). Ids are opaque strings.\n\n\
                       Requests are limited per minute. The headers `RateLimit-Policy` and `RateLimit` \
                       (draft-ietf-httpapi-ratelimit-headers-11) have the quota (`q`) of each policy, the requests that are left (`r`), \
                       and the seconds until one more is added (`t`). After 429 `rate_limited`, wait for `Retry-After` seconds.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "Registration", description = "Create an account and verify its email address."),
        (name = "Sign-in", description = "Sign in and out, and manage sessions."),
        (name = "Two-factor authentication", description = "Authenticator apps, passkeys and recovery codes."),
        (name = "Passwords", description = "Reset or change the password."),
        (name = "Email address", description = "Change the email address of the account."),
        (name = "Tenant", description = "The current tenant and its settings."),
        (name = "Members", description = "Members of the tenant and its ownership."),
        (name = "Roles", description = "Built-in roles, and the roles of the tenant."),
        (name = "API keys", description = "Keys with which programs call the API."),
        (name = "Invitations", description = "Invite people to the tenant, and join it."),
        (name = "Domains", description = "Email domains of the tenant, and joining a tenant by email domain."),
    ),
    security(("access_token" = [])),
    components(schemas(Written, Code, FieldError)),
)]
struct Preamble;

/// Describes a password that is set: it is subject to rules that existing ones may not meet.
#[derive(ToSchema)]
#[schema(
    description = "New password: at least 8 characters and at most 1024 bytes, and not easy to guess.",
    format = "password",
    min_length = 8,
    max_length = 1024,
    example = "correct horse battery staple"
)]
pub(crate) struct NewPassword(#[expect(dead_code, reason = "only describes a field")] String);

pub(crate) fn preamble() -> utoipa::openapi::OpenApi {
    Preamble::openapi()
}

/// The whole document.
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    let mut document = routes::documented().into_openapi();
    let components = document.components.get_or_insert_default();
    let bearer = Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    components
        .security_schemes
        .insert(ACCESS_TOKEN.to_owned(), RefOr::T(SecurityScheme::Http(bearer)));
    let mut key = Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("tk_…").build();
    key.description = Some("An API key, for programs.".to_owned());
    components.security_schemes.insert(API_KEY.to_owned(), RefOr::T(SecurityScheme::Http(key)));
    let cookie = ApiKeyValue::with_description(
        refresh_cookie::SECURE_NAME,
        "The refresh token of a browser. It is named `refresh_token` if `app.public_url` is not https.",
    );
    components
        .security_schemes
        .insert(REFRESH_TOKEN.to_owned(), RefOr::T(SecurityScheme::ApiKey(ApiKey::Cookie(cookie))));
    for (_, name, response) in problem::everywhere() {
        components.responses.insert(name.to_owned(), response.into());
    }
    document
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch]
        .into_iter()
        .flatten()
}

/// The documented routes, by method and path.
pub(crate) fn operations_by_path() -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for (path, item) in routes::documented().into_openapi().paths.paths {
        let PathItem { get, put, post, delete, patch, .. } = item;
        for (method, operation) in
            [("GET", get), ("PUT", put), ("POST", post), ("DELETE", delete), ("PATCH", patch)]
        {
            found.extend(operation.map(|_| (method, path.clone())));
        }
    }
    found
}

/// Describes the operation of a route: its id, what it requires of its caller, what the arguments of
/// its handler read and refuse, whether it rejects all query parameters, and whether its requests are
/// limited.
pub(crate) fn describe<A: Access, Args, H: Stated<Args>>(
    path: &mut PathItem,
    id: &str,
    rejects_query: bool,
    is_limited: bool,
) {
    for operation in operations(path) {
        operation.operation_id = Some(id.to_owned());
        let parameters = H::parameters();
        if parameters.iter().any(|parameter| parameter.name == idempotency::PARAMETER) {
            add_replayed(operation);
        }
        if !parameters.is_empty() {
            let parameters = parameters.into_iter().map(RefOr::T);
            operation.parameters.get_or_insert_default().extend(parameters);
        }
        let rejected = query::REJECTED.into_iter().filter(|_| rejects_query);
        let limited = is_limited.then_some(Code::RateLimited);
        let refusals = H::refusals().into_iter().chain(rejected).chain(limited).collect();
        let codes = problem::declare(&mut operation.responses, refusals);
        if A::RECENT {
            extend(operation, "x-recent-authentication", "always".into());
            add_text(
                operation,
                "Requires recent authentication (`POST /api/auth/reauthenticate`).",
            );
        } else if codes.contains(&Code::ReauthenticationRequired) {
            extend(operation, "x-recent-authentication", "conditional".into());
        }
        match A::NEED {
            Need::Nothing => operation.security = Some(vec![SecurityRequirement::default()]),
            // The default of the document.
            Need::SignedIn => {}
            Need::Session => {
                operation.security = Some(
                    [ACCESS_TOKEN, REFRESH_TOKEN]
                        .map(|scheme| SecurityRequirement::new(scheme, NO_SCOPES))
                        .into(),
                );
                add_text(
                    operation,
                    "Works from any IP address, also with the refresh token alone: in the cookie, or as `refresh_token` in the body.",
                );
            }
            Need::Permission(permission) => {
                let permission = permission.as_str();
                extend(operation, "x-permission", permission.into());
                add_text(operation, &format!("Requires the permission `{permission}`."));
                // Some permissions cannot be given to a key, and keys cannot authenticate recently.
                if !A::RECENT && permission.parse::<Scope>().is_ok() {
                    operation.security = Some(
                        [ACCESS_TOKEN, API_KEY]
                            .map(|scheme| SecurityRequirement::new(scheme, NO_SCOPES))
                            .into(),
                    );
                }
            }
        }
    }
}

/// Describes the header of responses that are sent again.
fn add_replayed(operation: &mut Operation) {
    let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["true"]));
    let text = "The request was carried out before with the same `Idempotency-Key`, and this is its response.";
    let header = HeaderBuilder::new().schema(Some(schema)).description(Some(text)).build();
    for (status, response) in &mut operation.responses.responses {
        if let (true, RefOr::T(response)) = (status.starts_with('2'), response) {
            response.headers.insert("Idempotent-Replayed".to_owned(), header.clone().into());
        }
    }
}

fn extend(operation: &mut Operation, name: &str, value: Value) {
    operation.extensions.get_or_insert_default().insert(name.to_owned(), value);
}

fn add_text(operation: &mut Operation, more: &str) {
    let text = operation.description.take().unwrap_or_default();
    operation.description = Some(format!("{text}\n\n{more}").trim_start().to_owned());
}

/// The whole document as JSON.
pub(crate) fn json() -> String {
    // Strings and numbers only: this cannot fail.
    let document = serde_json::to_value(document())
        .and_then(|document| serde_json::to_string_pretty(&sorted(document)));
    document.unwrap_or_default() + "\n"
}

/// Sorts the fields of every object: their order would otherwise depend on the features that
/// `serde_json` is built with.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> =
                fields.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            fields.into_iter().collect()
        }
        other => other,
    }
}
