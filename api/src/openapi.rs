//! The OpenAPI document, generated from the handlers themselves.

use std::{borrow::Cow, collections::BTreeMap};

use domain::tenancy::roles::Permission;
use serde_json::Value;
use utoipa::{
    OpenApi, PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, PathItem, Ref, RefOr, Response, Schema, Type,
        content::ContentBuilder,
        path::{Operation, Parameter},
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use crate::{
    extract::Need,
    problem::{Code, FieldError, Written},
    routes,
};

/// What the document says beside its paths.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tenantry",
        description = "Every refusal is a problem (RFC 9457): branch on its `code`, show its `title` and `detail`, and tell its \
                       `request_id` when asking for help. Times are RFC 3339 in UTC, ids are opaque.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "Registration", description = "Asking for an account and verifying its address."),
        (name = "Password", description = "Setting a new password."),
        (name = "Address", description = "Changing the address of one's account."),
        (name = "Session", description = "Signing in and out."),
        (name = "Second factors", description = "What is shown beside the password: codes of an app, passkeys, recovery codes."),
        (name = "Tenant", description = "The tenant one works in."),
        (name = "Members", description = "Who belongs to the tenant."),
        (name = "Invitations", description = "Asking people into the tenant, and joining it."),
        (name = "Domains", description = "The domains of a tenant's people, and joining it by one's address."),
        (name = "Roles", description = "What members may do: the built-in roles, and those of the tenant's own."),
    ),
    security(("access_token" = [])),
    components(schemas(Written, Code, FieldError)),
)]
struct Preamble;

/// A permission as it is written: one of those that the table has.
pub(crate) struct PermissionName;

impl PartialSchema for PermissionName {
    fn schema() -> RefOr<Schema> {
        let names = Permission::ALL.iter().map(|permission| permission.as_str());
        let description =
            "A right, written `resource:action`. A later release may know more of them.";
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(description))
            .enum_values(Some(names))
            .build()
            .into()
    }
}

impl ToSchema for PermissionName {
    fn name() -> Cow<'static, str> {
        "Permission".into()
    }
}

/// The document without its paths.
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
        .insert("access_token".to_owned(), RefOr::T(SecurityScheme::Http(bearer)));
    document.paths.paths.values_mut().flat_map(operations).for_each(may_be_refused);
    document
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch]
        .into_iter()
        .flatten()
}

/// Says of a path's operations what they are called, what they demand of their callers and which
/// parameters their extractors read.
pub(crate) fn describe(
    path: &mut PathItem,
    id: &str,
    (need, recent): (Need, bool),
    parameters: &[Parameter],
) {
    for operation in operations(path) {
        operation.operation_id = Some(id.to_owned());
        if !parameters.is_empty() {
            operation
                .parameters
                .get_or_insert_default()
                .extend(parameters.iter().cloned().map(RefOr::T));
        }
        if recent {
            extend(operation, "x-recent-authentication", true.into());
            add_text(
                operation,
                "Refused as `reauthentication_required` (403) unless the caller signed in or proved anew who they are a moment ago.",
            );
        }
        match need {
            Need::Nothing => operation.security = Some(vec![SecurityRequirement::default()]),
            // As the document says of all.
            Need::SignedIn => {}
            Need::Permission(permission) => {
                let permission = permission.as_str();
                extend(operation, "x-permission", permission.into());
                add_text(operation, &format!("Needs the permission `{permission}`."));
            }
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
    // Texts and numbers only: this cannot fail.
    let document = serde_json::to_value(document())
        .and_then(|document| serde_json::to_string_pretty(&sorted(document)));
    document.unwrap_or_default() + "\n"
}

/// With the fields of every object in order, as extensions are in none, and how objects are kept is
/// up to who else is built with us.
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

/// Any operation may be refused, in one form.
fn may_be_refused(operation: &mut Operation) {
    let problem =
        ContentBuilder::new().schema(Some(Ref::from_schema_name(Written::name()))).build();
    let refusal = Response::builder()
        .description("Refused; see `code`.")
        .content("application/problem+json", problem)
        .build();
    operation.responses.responses.insert("default".to_owned(), RefOr::T(refusal));
}
