//! Query parameters, read like request bodies: one by one into domain types, and every mistake is
//! reported at once.

use axum::{
    extract::{FromRequestParts, Query, Request},
    http::{Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use common::id::{self, Id, Prefix};
use serde_json::{Map, Value};
use utoipa::openapi::{
    ObjectBuilder, Type,
    path::{Parameter, ParameterBuilder, ParameterIn},
};

use super::{
    Argument, Need,
    json::{Fields, FromFields, Place, read},
};
use crate::{
    answers::page::Cursor,
    problem::{Code, Problem},
};

/// Items of a page when the client does not say how many.
const LIMIT: usize = 25;
/// The most items of a page.
const LIMIT_MAX: usize = 100;

/// A part of a list (`limit`, `cursor`), narrowed by the parameters of `F`.
pub(crate) struct PageQuery<P, F = Everything> {
    pub(crate) filter: F,
    /// The most items that the page may have.
    pub(crate) limit: usize,
    /// The page has the items after this one.
    pub(crate) after: Option<Id<P>>,
}

/// Query parameters that narrow a list.
pub(crate) trait Filter: FromFields {
    /// Describes them: name and meaning.
    const PARAMETERS: &'static [(&'static str, &'static str)];
}

/// Query parameters of a resource that is not a list.
pub(crate) struct Parameters<F>(pub(crate) F);

impl<S: Send + Sync, F: Filter> FromRequestParts<S> for Parameters<F> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parse(&parts.uri).map(Self)
    }
}

impl<F: Filter> Argument for Parameters<F> {
    fn refusals() -> Vec<Code> {
        PageQuery::<id::Tenant, F>::refusals()
    }

    fn parameters() -> Vec<Parameter> {
        filters::<F>().collect()
    }
}

/// Describes the parameters of a filter.
fn filters<F: Filter>() -> impl Iterator<Item = Parameter> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    F::PARAMETERS.iter().map(move |(name, meaning)| parameter(name, meaning, text()))
}

/// Nothing is filtered.
pub(crate) struct Everything;

impl FromFields for Everything {
    fn read(_: &mut Fields) -> Option<Self> {
        Some(Self)
    }
}

impl Filter for Everything {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[];
}

impl<P: Prefix, F: Filter> FromFields for PageQuery<P, F> {
    fn read(fields: &mut Fields) -> Option<Self> {
        let filter = F::read(fields);
        let limit = fields.limit("limit", LIMIT_MAX).unwrap_or(LIMIT);
        let after = fields.optional::<Cursor<P>>("cursor").map(|Cursor(id)| id);
        Some(Self { filter: filter?, limit, after })
    }
}

impl<S: Send + Sync, P: Prefix, F: Filter> FromRequestParts<S> for PageQuery<P, F> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parse(&parts.uri)
    }
}

/// Middleware of routes that read no query parameters: rejects requests that have some.
pub(crate) async fn reject(need: Need, request: Request, next: Next) -> Response {
    // The handler answers that authentication is required.
    let needs_access_token = !matches!(need, Need::Nothing | Need::Session);
    if needs_access_token && !request.headers().contains_key(header::AUTHORIZATION) {
        return next.run(request).await;
    }
    match parse::<Everything>(request.uri()) {
        Ok(Everything) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Problems of [`reject`].
pub(crate) const REJECTED: [Code; 2] = [Code::BadRequest, Code::UnknownField];

fn parse<T: FromFields>(uri: &Uri) -> Result<T, Problem> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| {
        Problem::new(Code::BadRequest, "The query string is not valid. Check its encoding.")
    })?;
    let mut given = Map::new();
    for (name, value) in pairs.0 {
        if given.insert(name, Value::String(value)).is_some() {
            return Err(Problem::new(
                Code::BadRequest,
                "A query parameter occurs twice. Send each parameter once.",
            ));
        }
    }
    read(Place::Query, given)
}

impl<P, F: Filter> Argument for PageQuery<P, F> {
    fn refusals() -> Vec<Code> {
        vec![Code::BadRequest, Code::ValidationFailed, Code::UnknownField]
    }

    fn parameters() -> Vec<Parameter> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let limit = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(LIMIT_MAX))
            .default(Some(LIMIT.into()));
        let page = [
            parameter("limit", "Maximum number of items to return.", limit),
            parameter("cursor", "The `next_cursor` of the previous page.", text()),
        ];
        filters::<F>().chain(page).collect()
    }
}

fn parameter(name: &str, meaning: &str, schema: ObjectBuilder) -> Parameter {
    let query = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
    query.description(Some(meaning)).schema(Some(schema)).build()
}
