//! What a handler's arguments say about its operation.
//!
//! An extractor knows which parameters it reads and which problems it returns. It states both here,
//! once, and the OpenAPI document describes every handler that takes it accordingly.

use axum::{
    extract::{Path, State},
    http::HeaderMap,
};
use utoipa::openapi::path::Parameter;

use crate::problem::Code;

/// An argument of a handler.
pub(crate) trait Argument {
    /// Problems that the extractor returns.
    fn refusals() -> Vec<Code> {
        Vec::new()
    }

    /// Parameters that it reads from the path, the query or the headers.
    fn parameters() -> Vec<Parameter> {
        Vec::new()
    }
}

impl<S> Argument for State<S> {}

impl Argument for HeaderMap {}

impl<T> Argument for Path<T> {
    fn refusals() -> Vec<Code> {
        vec![Code::BadRequest]
    }
}
