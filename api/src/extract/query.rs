//! Query parameters, read like request bodies: one by one into domain types, and every mistake is
//! reported at once.

use axum::{
    extract::{self, FromRequestParts},
    http::request::Parts,
};
use common::id::{Id, Prefix};
use serde_json::{Map, Value};
use utoipa::openapi::{
    ObjectBuilder, Type,
    path::{Parameter, ParameterBuilder, ParameterIn},
};

use super::{
    Argument,
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

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let pairs = extract::Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let extract::Query(pairs) = pairs.map_err(|_| {
            Problem::new(Code::BadRequest, "The query string is not valid. Check its encoding.")
        })?;
        let mut given = Map::new();
        for (name, value) in pairs {
            if given.insert(name, Value::String(value)).is_some() {
                return Err(Problem::new(
                    Code::BadRequest,
                    "A query parameter occurs twice. Send each parameter once.",
                ));
            }
        }
        read(Place::Query, given)
    }
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
        let filters = F::PARAMETERS.iter().map(|(name, meaning)| parameter(name, meaning, text()));
        let page = [
            parameter("limit", "Maximum number of items to return.", limit),
            parameter("cursor", "The `next_cursor` of the previous page.", text()),
        ];
        filters.chain(page).collect()
    }
}

fn parameter(name: &str, meaning: &str, schema: ObjectBuilder) -> Parameter {
    let query = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
    query.description(Some(meaning)).schema(Some(schema)).build()
}
