//! Queries, read as bodies are: parameter by parameter into domain types, every mistake told at
//! once.

use axum::{
    extract::{self, FromRequestParts},
    http::request::Parts,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::id::{Id, Prefix};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Argument,
    json::{Fields, FromFields, Place, Refusal, read},
};
use crate::problem::{Code, Problem};

/// Items of a list, where it is not said how many.
const LIMIT: usize = 25;
/// The most items of a list.
const LIMIT_MAX: usize = 100;

/// A query of type `T`.
pub(crate) struct Query<T>(pub(crate) T);

impl<T> Argument for Query<T> {}

impl<S: Send + Sync, T: FromFields> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let pairs = extract::Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let extract::Query(pairs) =
            pairs.map_err(|_| Problem::new(Code::BadRequest, "The query cannot be read."))?;
        let mut given = Map::new();
        for (name, value) in pairs {
            if given.insert(name, Value::String(value)).is_some() {
                return Err(Problem::new(Code::BadRequest, "The query says one thing twice."));
            }
        }
        read(Place::Query, given).map(Self)
    }
}

/// Which part of a list is wanted.
pub(crate) struct Paging<P> {
    /// How many items at most.
    pub(crate) limit: usize,
    /// Only those after this one.
    pub(crate) after: Option<Id<P>>,
}

impl<P: Prefix> Paging<P> {
    /// Reads `limit` and `cursor`.
    pub(crate) fn read(fields: &mut Fields) -> Self {
        let limit = fields.optional::<Limit>("limit").map_or(LIMIT, |limit| limit.0);
        let after = fields.optional::<Cursor<P>>("cursor").map(|cursor| cursor.0);
        Self { limit, after }
    }
}

/// How many items are wanted.
struct Limit(usize);

/// A number of items that is none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InvalidLimit;

impl std::fmt::Display for InvalidLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "must be a number from 1 to {LIMIT_MAX}")
    }
}

impl Refusal for InvalidLimit {
    fn code(&self) -> &'static str {
        "out_of_range"
    }
}

impl std::str::FromStr for Limit {
    type Err = InvalidLimit;
    fn from_str(text: &str) -> Result<Self, InvalidLimit> {
        text.parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit))
            .map(Self)
            .ok_or(InvalidLimit)
    }
}

/// Where to go on in a list: after which item.
pub(crate) struct Cursor<P>(pub(crate) Id<P>);

/// A cursor that is none of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InvalidCursor;

impl std::fmt::Display for InvalidCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("must be the `next_cursor` of an answer")
    }
}

impl Refusal for InvalidCursor {
    fn code(&self) -> &'static str {
        "invalid_format"
    }
}

impl<P: Prefix> std::str::FromStr for Cursor<P> {
    type Err = InvalidCursor;
    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
        let id = String::from_utf8(bytes).map_err(|_| InvalidCursor)?;
        id.parse().map(Self).map_err(|_| InvalidCursor)
    }
}

impl<P: Prefix> Serialize for Cursor<P> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0.to_string()))
    }
}
