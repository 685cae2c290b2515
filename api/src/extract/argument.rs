//! What a handler's arguments say about its operation.
//!
//! An extractor knows which parameters it reads. It states them here, once, and every handler that
//! takes it as an argument is described accordingly.

use axum::{
    extract::{Path, State},
    http::HeaderMap,
};
use utoipa::openapi::path::Parameter;

/// An argument of a handler.
pub(crate) trait Argument {
    /// The parameters that it reads from the path, the query or the headers.
    fn parameters() -> Vec<Parameter> {
        Vec::new()
    }
}

impl<S> Argument for State<S> {}

impl Argument for HeaderMap {}

impl<T> Argument for Path<T> {}
