//! Ids in paths.

use std::{convert::Infallible, str::FromStr};

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use common::id::{Id, Prefix, RoleId};
use domain::tenancy::roles::RoleRef;
use utoipa::{
    PartialSchema,
    openapi::{
        RefOr, Required, Schema,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use super::Argument;

/// The `{id}` of a path. A text that is not an id becomes [`Named::NOTHING`], so that the handler
/// responds as to an id that does not exist.
pub(crate) struct PathId<T>(pub(crate) T);

/// The type of an id in a path.
pub(crate) trait Named: FromStr + Send {
    /// An id that identifies nothing.
    const NOTHING: Self;

    /// The schema of the id in the OpenAPI document.
    fn schema() -> RefOr<Schema>;
}

impl<P: Prefix> Named for Id<P> {
    const NOTHING: Self = Self::NIL;

    fn schema() -> RefOr<Schema> {
        <Self as PartialSchema>::schema()
    }
}

impl Named for RoleRef {
    const NOTHING: Self = Self::Custom(RoleId::NIL);

    fn schema() -> RefOr<Schema> {
        <RoleId as PartialSchema>::schema()
    }
}

impl<S: Send + Sync, T: Named> FromRequestParts<S> for PathId<T> {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let given = Path::<String>::from_request_parts(parts, state).await;
        let named = given.ok().and_then(|Path(text)| text.parse().ok());
        Ok(Self(named.unwrap_or(T::NOTHING)))
    }
}

impl<T: Named> Argument for PathId<T> {
    fn parameters() -> Vec<Parameter> {
        let id = ParameterBuilder::new().name("id").parameter_in(ParameterIn::Path);
        vec![id.required(Required::True).schema(Some(T::schema())).build()]
    }
}
