//! Small words to say what a collection's rows look like, as MongoDB's `$jsonSchema` wants it.
//!
//! A validator is declared beside its type and applied by a migration
//! ([`Plan::Validator`](super::Plan)). It guards against writers that are not this code: a script,
//! a shell, an older release. It lists what must be there and leaves room for fields to come, so
//! that a newer release can write them before the older one is gone.

use mongodb::bson::{Bson, Document, doc};

/// The shape of a collection's rows.
#[derive(Debug, Clone, Copy)]
pub struct Validator {
    /// The collection.
    pub collection: &'static str,
    /// Fields that every row has, each with the BSON types it may be of.
    pub required: &'static [(&'static str, &'static [&'static str])],
}

/// A text.
pub const STRING: &[&str] = &["string"];
/// A point in time.
pub const DATE: &[&str] = &["date"];
/// A point in time or none.
pub const DATE_OR_NULL: &[&str] = &["date", "null"];
/// A text or none.
pub const STRING_OR_NULL: &[&str] = &["string", "null"];
/// Bytes.
pub const BYTES: &[&str] = &["binData"];
/// A whole number.
pub const INTEGER: &[&str] = &["int", "long"];
/// Yes or no.
pub const BOOLEAN: &[&str] = &["bool"];
/// A list.
pub const ARRAY: &[&str] = &["array"];
/// Fields within.
pub const OBJECT: &[&str] = &["object"];

impl Validator {
    /// As the `collMod` command takes it.
    pub(super) fn json_schema(&self) -> Document {
        let names: Vec<Bson> = self.required.iter().map(|(name, _)| Bson::from(*name)).collect();
        let types = |(name, types): &(&str, &[&str])| {
            ((*name).to_owned(), Bson::from(doc! { "bsonType": types.to_vec() }))
        };
        let properties: Document = self.required.iter().map(types).collect();
        doc! { "$jsonSchema": { "bsonType": "object", "required": names, "properties": properties } }
    }
}
