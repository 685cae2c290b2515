//! The declared schema: which collections there are, their indexes, and the shape of their rows.
//!
//! Each record type declares its own collection ([`Record::INDEXES`], [`Record::REQUIRED`]). A
//! release's [`Declaration`] lists them, and `api migrate up` changes the database until it matches
//! ([`Store::migrate`](super::Store::migrate)). Numbered [`DataChange`]s are for data only.
//!
//! A change either *expands* the schema, and then an older release goes on working, or *contracts*
//! it. Contracting changes are held back while processes of an older generation are running. A
//! release relies on its unique indexes, so the database is not prepared for it before they exist.

mod migrate;
mod reconcile;

use std::{future::Future, pin::Pin, time::Duration};

pub use migrate::{Migrated, Plan, Progress, Report, SchemaState};
use mongodb::bson::{Bson, Document, doc};
pub use reconcile::Step;

use super::{DbError, Record, Store};

/// A field that every row of a collection has, and the BSON types that its value may have.
pub type Field = (&'static str, &'static [&'static str]);

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
/// True or false.
pub const BOOLEAN: &[&str] = &["bool"];
/// A list.
pub const ARRAY: &[&str] = &["array"];
/// A nested document.
pub const OBJECT: &[&str] = &["object"];

/// The fields of an index in order, each with 1 (ascending) or -1 (descending).
pub type Keys = &'static [(&'static str, i32)];

/// An index of a collection.
#[derive(Debug, Clone, Copy)]
pub struct Index {
    name: &'static str,
    keys: Keys,
    unique: bool,
    expire_after: Option<Duration>,
}

impl Index {
    /// An index that only makes queries fast.
    pub const fn on(name: &'static str, keys: Keys) -> Self {
        Self { name, keys, unique: false, expire_after: None }
    }

    /// An index that rejects a second row with the same key ([`DbError::Duplicate`]).
    pub const fn unique(name: &'static str, keys: Keys) -> Self {
        Self { name, keys, unique: true, expire_after: None }
    }

    /// A TTL index: MongoDB removes rows `after` the time in their indexed field. It checks only
    /// about once a minute, so every reader checks the time as well.
    pub const fn expiring(name: &'static str, keys: Keys, after: Duration) -> Self {
        Self { name, keys, unique: false, expire_after: Some(after) }
    }

    /// Its name, which starts with the name of its collection.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The keys as MongoDB writes them.
    fn key(&self) -> Document {
        self.keys.iter().map(|(field, order)| ((*field).to_owned(), (*order).into())).collect()
    }

    /// The lifetime of rows as MongoDB writes it.
    fn expire_after_seconds(&self) -> Option<i64> {
        self.expire_after.map(|after| i64::try_from(after.as_secs()).unwrap_or(i64::MAX))
    }

    /// As the `createIndexes` command takes it.
    fn specification(&self) -> Document {
        let mut specification =
            doc! { "name": self.name, "key": self.key(), "unique": self.unique };
        if let Some(seconds) = self.expire_after_seconds() {
            specification.insert("expireAfterSeconds", seconds);
        }
        specification
    }
}

/// A collection as its record type declares it.
#[derive(Debug, Clone, Copy)]
pub struct Collection {
    name: &'static str,
    indexes: &'static [Index],
    required: &'static [Field],
}

impl Collection {
    /// The collection of `T`.
    pub const fn of<T: Record>() -> Self {
        Self { name: T::COLLECTION, indexes: T::INDEXES, required: T::REQUIRED }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its indexes.
    pub const fn indexes(&self) -> &'static [Index] {
        self.indexes
    }

    /// The `validator` option of the collection: empty if it does not check its rows.
    ///
    /// It guards against writers that are not this code, such as a script or a shell. It demands
    /// only the required fields, so that a newer release can write others before the older one has
    /// stopped.
    fn validator(&self) -> Document {
        if self.required.is_empty() {
            return Document::new();
        }
        let names: Vec<&str> = self.required.iter().map(|(name, _)| *name).collect();
        let types = |(name, types): &Field| {
            ((*name).to_owned(), Bson::from(doc! { "bsonType": types.to_vec() }))
        };
        let properties: Document = self.required.iter().map(types).collect();
        doc! { "$jsonSchema": { "bsonType": "object", "required": names, "properties": properties } }
    }
}

/// The running code of a data change.
pub type Applying<'s> = Pin<Box<dyn Future<Output = Result<(), DbError>> + Send + 's>>;

/// A numbered change of stored rows, carried out once and in order by `api migrate up`.
///
/// Expand first and contract in a later release: a release that needs a new shape still reads the
/// old one until every row has changed.
#[derive(Clone, Copy)]
pub struct DataChange {
    /// Its number; higher than that of every data change before it.
    pub version: i32,
    /// What it changes, in a few words.
    pub name: &'static str,
    /// The oldest generation of the schema whose release can work with the changed rows.
    pub readable_from: i32,
    /// The change. It may be interrupted and run again, so it must continue where it stopped.
    pub code: for<'s> fn(&'s Store) -> Applying<'s>,
}

/// Everything that a release declares about its database.
#[derive(Clone)]
pub struct Declaration {
    /// Counts the declarations; raised with every change of any of the other fields.
    pub generation: i32,
    /// The oldest generation whose release can work with a database that matches this declaration.
    pub readable_from: i32,
    /// The collections. Others in the same database are left alone.
    pub collections: Vec<Collection>,
    /// The data changes, by version.
    pub data_changes: &'static [DataChange],
}
