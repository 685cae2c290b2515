//! Which problems an operation can return.
//!
//! An error that becomes a problem lists its codes ([`Refusal`]) next to the code that maps it. A
//! handler names its errors in `responses(…)`, as [`Refusals`]; what its arguments and the
//! middleware refuse is added where routes are made.

use std::{
    collections::{BTreeMap, BTreeSet},
    marker::PhantomData,
};

use axum::http::StatusCode;
use utoipa::{
    IntoResponses,
    openapi::{
        ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, Responses, Type,
        content::ContentBuilder, extensions::ExtensionsBuilder, schema::AllOfBuilder,
    },
};

use super::Code;

/// An error that clients receive as a problem.
pub(crate) trait Refusal {
    /// The codes of the problems that it becomes.
    fn codes() -> Vec<Code>;
}

impl<A: Refusal, B: Refusal> Refusal for (A, B) {
    fn codes() -> Vec<Code> {
        [A::codes(), B::codes()].concat()
    }
}

impl<A: Refusal, B: Refusal, C: Refusal> Refusal for (A, B, C) {
    fn codes() -> Vec<Code> {
        [A::codes(), B::codes(), C::codes()].concat()
    }
}

impl<A: Refusal, B: Refusal, C: Refusal, D: Refusal> Refusal for (A, B, C, D) {
    fn codes() -> Vec<Code> {
        [A::codes(), B::codes(), C::codes(), D::codes()].concat()
    }
}

/// Problems that every operation can return, described once for all of them.
const EVERYWHERE: [Code; 5] =
    [Code::BodyTooLarge, Code::Internal, Code::Overloaded, Code::Unavailable, Code::Timeout];

/// The errors of a handler, in the `responses(…)` of its description.
pub(crate) struct Refusals<E>(PhantomData<E>);

/// Where [`Refusals`] puts its codes until [`declare`] takes them.
const STATED: &str = "refusals";

impl<E: Refusal> IntoResponses for Refusals<E> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let codes: Vec<&str> = E::codes().into_iter().map(Code::as_str).collect();
        let codes = ExtensionsBuilder::new().add(STATED, codes).build();
        let stated = ResponseBuilder::new().extensions(Some(codes)).build();
        BTreeMap::from([(STATED.to_owned(), stated.into())])
    }
}

/// Describes the problems of an operation by status: those that its handler declares, and `codes`.
/// Returns all of them.
pub(crate) fn declare(responses: &mut Responses, codes: Vec<Code>) -> BTreeSet<Code> {
    let stated: BTreeSet<Code> = taken(responses).into_iter().chain(codes).collect();
    let mut by_status: BTreeMap<u16, BTreeSet<Code>> = BTreeMap::new();
    for code in stated.iter().copied().filter(|code| !EVERYWHERE.contains(code)) {
        by_status.entry(code.status().as_u16()).or_default().insert(code);
    }
    for (status, codes) in by_status {
        responses.responses.insert(status.to_string(), described(&codes).into());
    }
    for (status, name, _) in everywhere() {
        let shared = RefOr::Ref(Ref::from_response_name(name));
        responses.responses.insert(status.as_str().to_owned(), shared);
    }
    stated
}

/// The responses that all operations have in common: their status, name and description.
pub(crate) fn everywhere() -> impl Iterator<Item = (StatusCode, &'static str, Response)> {
    let named = [
        (StatusCode::PAYLOAD_TOO_LARGE, "BodyTooLarge"),
        (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
    ];
    named.into_iter().map(|(status, name)| {
        let codes = EVERYWHERE.into_iter().filter(|code| code.status() == status).collect();
        (status, name, described(&codes))
    })
}

fn taken(responses: &mut Responses) -> Vec<Code> {
    let Some(RefOr::T(stated)) = responses.responses.remove(STATED) else { return Vec::new() };
    let extensions = stated.extensions.unwrap_or_default();
    let codes = extensions.values().filter_map(|codes| codes.as_array()).flatten();
    let known = |code: &serde_json::Value| Code::ALL.iter().find(|known| code == known.as_str());
    codes.filter_map(known).copied().collect()
}

/// A response that is one of these problems.
fn described(codes: &BTreeSet<Code>) -> Response {
    let lines: Vec<String> =
        codes.iter().map(|code| format!("`{}`: {}.", code.as_str(), code.title())).collect();
    let one_of = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(codes.iter().map(|code| code.as_str())));
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name("Problem"))
        .item(ObjectBuilder::new().property("code", one_of));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new()
        .description(lines.join("\n\n"))
        .content("application/problem+json", content)
        .build()
}
