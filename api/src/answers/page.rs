//! Lists in responses.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::id::{Id, Prefix};
use serde::Serialize;
use utoipa::ToSchema;

/// A complete list.
#[derive(Serialize, ToSchema)]
pub(crate) struct List<T> {
    items: Vec<T>,
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self { items: items.into_iter().collect() }
    }
}

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(crate) struct Page<T> {
    items: Vec<T>,
    /// Pass it as `cursor` to get the next page. It is null on the last page; a page with fewer
    /// items than `limit` is not always the last.
    next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page. If the list continues, `next` is the last item that was considered for this page.
    pub(crate) fn new<P: Prefix>(items: impl IntoIterator<Item = T>, next: Option<Id<P>>) -> Self {
        let next_cursor = next.map(|id| Cursor(id).to_string());
        Self { items: items.into_iter().collect(), next_cursor }
    }
}

/// A position in a list: after an item. New items do not move it, because lists are ordered by id.
/// It is opaque to clients.
pub(crate) struct Cursor<P>(pub(crate) Id<P>);

/// The text is not a cursor of this API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InvalidCursor;

impl fmt::Display for InvalidCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be the `next_cursor` of a page of this list")
    }
}

impl<P: Prefix> FromStr for Cursor<P> {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
        let id = String::from_utf8(bytes).map_err(|_| InvalidCursor)?;
        id.parse().map(Self).map_err(|_| InvalidCursor)
    }
}

impl<P: Prefix> fmt::Display for Cursor<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0.to_string()))
    }
}
