//! Comparing the declared collections with those of the database, and the steps from one to the
//! other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use futures::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Bson, Document, doc};

use super::{Collection, Field, Index, Progress, Report};
use crate::db::{DbError, Store};

/// Number of concurrent commands.
const CONCURRENCY: usize = 8;
/// Batch size that returns all collections at once.
const COLLECTIONS_MAX: i32 = 10_000;
/// Rows that violated the rules before they were declared can still be updated.
const VALIDATION_LEVEL: &str = "moderate";
/// The options that identify an index, besides its name.
const INDEX_OPTIONS: &[&str] =
    &["v", "ns", "background", "name", "key", "unique", "expireAfterSeconds"];
/// Maximum number of duplicate keys that an error lists.
const DUPLICATES_MAX: i32 = 5;

/// One change that brings the database closer to the declaration.
#[derive(Debug, Clone)]
pub enum Step {
    /// Create a collection with its validator and indexes.
    CreateCollection(Collection),
    /// Replace the validator of a collection.
    SetValidator {
        /// The declared collection.
        collection: Collection,
        /// Whether it may reject rows that were accepted before.
        tightens: bool,
    },
    /// Create an index of a collection that exists.
    CreateIndex {
        /// The collection.
        collection: &'static str,
        /// The declared index.
        index: Index,
    },
    /// Change how long rows are kept.
    SetExpiry {
        /// The collection.
        collection: &'static str,
        /// The declared index.
        index: Index,
        /// Whether rows are removed earlier than before.
        shortens: bool,
    },
    /// Drop the indexes that the declared one cannot exist beside, and create it.
    ReplaceIndex {
        /// The collection.
        collection: &'static str,
        /// The indexes to drop.
        found: Vec<String>,
        /// The declared index.
        index: Index,
    },
    /// Drop an index that an older release declared.
    DropIndex {
        /// The collection.
        collection: &'static str,
        /// The index.
        name: String,
    },
}

impl Step {
    /// Whether a release that does not know of this step may fail after it.
    pub const fn contracts(&self) -> bool {
        match self {
            Self::CreateCollection(_) => false,
            Self::SetValidator { tightens, .. } => *tightens,
            Self::CreateIndex { index, .. } => index.unique || index.expire_after.is_some(),
            Self::SetExpiry { shortens, .. } => *shortens,
            Self::ReplaceIndex { .. } | Self::DropIndex { .. } => true,
        }
    }

    /// Whether the release that declares it relies on it: it does not serve before.
    pub const fn is_required(&self) -> bool {
        self.unique_index().is_some()
    }

    /// The unique index that it creates on a collection that may have rows.
    const fn unique_index(&self) -> Option<(&'static str, &Index)> {
        match self {
            Self::CreateIndex { collection, index }
            | Self::ReplaceIndex { collection, index, .. }
                if index.unique =>
            {
                Some((collection, index))
            }
            _ => None,
        }
    }

    /// Name of the collection that it changes.
    const fn collection(&self) -> &'static str {
        match self {
            Self::CreateCollection(collection) | Self::SetValidator { collection, .. } => {
                collection.name
            }
            Self::CreateIndex { collection, .. }
            | Self::SetExpiry { collection, .. }
            | Self::ReplaceIndex { collection, .. }
            | Self::DropIndex { collection, .. } => collection,
        }
    }

    /// The commands that carry it out, in order.
    fn commands(&self) -> Vec<Document> {
        match self {
            Self::CreateCollection(collection) => {
                let mut create = doc! { "create": collection.name };
                if !collection.required.is_empty() {
                    create.insert("validator", collection.validator());
                    create.insert("validationLevel", VALIDATION_LEVEL);
                }
                let mut commands = vec![create];
                if !collection.indexes.is_empty() {
                    commands.push(create_indexes(collection.name, collection.indexes));
                }
                commands
            }
            Self::SetValidator { collection, .. } => vec![
                doc! { "collMod": collection.name, "validator": collection.validator(), "validationLevel": VALIDATION_LEVEL, "validationAction": "error" },
            ],
            Self::CreateIndex { collection, index } => vec![create_indexes(collection, &[*index])],
            Self::SetExpiry { collection, index, .. } => vec![
                doc! { "collMod": collection, "index": { "name": index.name, "expireAfterSeconds": index.expire_after_seconds() } },
            ],
            Self::ReplaceIndex { collection, found, index } => {
                let drops = found.iter().map(|name| drop_index(collection, name));
                drops.chain([create_indexes(collection, &[*index])]).collect()
            }
            Self::DropIndex { collection, name } => vec![drop_index(collection, name)],
        }
    }
}

fn create_indexes(collection: &str, indexes: &[Index]) -> Document {
    let specifications: Vec<Document> = indexes.iter().map(Index::specification).collect();
    doc! { "createIndexes": collection, "indexes": specifications }
}

fn drop_index(collection: &str, name: &str) -> Document {
    doc! { "dropIndexes": collection, "index": name }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateCollection(collection) => {
                write!(f, "create collection {}", collection.name)?;
                for (position, index) in collection.indexes.iter().enumerate() {
                    let before = if position == 0 { " with index " } else { ", " };
                    write!(f, "{before}{}", index.name)?;
                }
                Ok(())
            }
            Self::SetValidator { collection, tightens } => {
                let how = if *tightens { "tighten" } else { "loosen" };
                write!(f, "{how} the validator of {}", collection.name)
            }
            Self::CreateIndex { collection, index } => {
                let unique = if index.unique { "unique " } else { "" };
                write!(f, "create {unique}index {} of {collection}", index.name)
            }
            Self::SetExpiry { collection, index, .. } => {
                let after = index.expire_after.unwrap_or_default();
                write!(f, "set the expiry of index {} of {collection} to {after:?}", index.name)
            }
            // An earlier step replaces what stood in its way.
            Self::ReplaceIndex { collection, found, index } if found.is_empty() => {
                write!(f, "create index {} of {collection}", index.name)
            }
            Self::ReplaceIndex { collection, found, index } => {
                let found = found.join(", ");
                write!(f, "replace index {found} of {collection} with {}", index.name)
            }
            Self::DropIndex { collection, name } => write!(f, "drop index {name} of {collection}"),
        }
    }
}

/// The state of a declared collection in the database.
#[derive(Debug, Default)]
struct Found {
    /// The current options of the collection.
    options: Document,
    indexes: Vec<Document>,
}

impl Store {
    /// Changes the database until it has `collections` as they are declared; for an installation
    /// that keeps no generations, such as a program of the job engine alone.
    pub async fn reconcile(&self, collections: &[Collection]) -> Result<(), DbError> {
        let steps = self.steps(collections).await?;
        self.refuse_duplicates(&steps).await?;
        self.carry_out(&steps, &|_| ()).await
    }

    /// The steps from what the database has to `collections`.
    pub(super) async fn steps(&self, collections: &[Collection]) -> Result<Vec<Step>, DbError> {
        let mut found = self.found(collections).await?;
        let steps =
            |collection: &Collection| steps(collection, found.remove(collection.name).as_ref());
        Ok(collections.iter().flat_map(steps).collect())
    }

    /// Carries out steps, concurrently for different collections: MongoDB rejects some commands on a
    /// collection while an index of it is built.
    pub(super) async fn carry_out(
        &self,
        steps: &[Step],
        report: Report<'_>,
    ) -> Result<(), DbError> {
        let by_collection = steps.chunk_by(|step, next| step.collection() == next.collection());
        stream::iter(by_collection.map(Ok))
            .try_for_each_concurrent(CONCURRENCY, async |steps: &[Step]| {
                for step in steps {
                    for command in step.commands() {
                        self.command(command).await?;
                    }
                    tracing::debug!(%step, "schema_step_done");
                    report(&Progress::Step(step));
                }
                Ok(())
            })
            .await
    }

    /// Fails if stored rows violate a unique index that `steps` create. MongoDB would notice, too,
    /// but only after other steps are done, and it does not say which rows.
    pub(super) async fn refuse_duplicates(&self, steps: &[Step]) -> Result<(), DbError> {
        for (collection, index) in steps.iter().filter_map(Step::unique_index) {
            let answer = self.command(find_duplicates(collection, index)).await?;
            let duplicates = first_batch(answer)?;
            if duplicates.is_empty() {
                continue;
            }
            let ids = |group: &Document| {
                let ids = group.get_array("ids").map_or(&[][..], Vec::as_slice);
                ids.iter().map(Bson::to_string).collect::<Vec<_>>().join(" and ")
            };
            let rows = duplicates.iter().map(ids).collect::<Vec<_>>().join(", ");
            return Err(DbError::NotUnique { collection, index: index.name, rows });
        }
        Ok(())
    }

    async fn found(&self, collections: &[Collection]) -> Result<HashMap<String, Found>, DbError> {
        let names: Vec<&str> = collections.iter().map(Collection::name).collect();
        let list = doc! { "listCollections": 1, "filter": { "name": { "$in": names } }, "cursor": { "batchSize": COLLECTIONS_MAX } };
        let listed = first_batch(self.command(list).await?)?;
        stream::iter(listed)
            .map(async |mut collection| {
                let Some(Bson::String(name)) = collection.remove("name") else {
                    return Err(unexpected("a collection without a name"));
                };
                let options = collection.get_document("options").cloned().unwrap_or_default();
                let list = doc! { "listIndexes": &name, "includeBuildUUIDs": true };
                let mut indexes = first_batch(self.command(list).await?)?;
                indexes.retain(is_built);
                Ok((name, Found { options, indexes }))
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }
}

/// Whether an entry of `listIndexes` is complete. Creating an index that is still being built waits
/// for its completion.
fn is_built(index: &Document) -> bool {
    !index.contains_key("buildUUID")
}

/// The command that returns the ids of two rows for each of some keys that occur more than once.
fn find_duplicates(collection: &str, index: &Index) -> Document {
    // An index has null for a missing field.
    let field = |(position, (field, _)): (usize, &(&str, i32))| {
        (position.to_string(), Bson::from(doc! { "$ifNull": [format!("${field}"), Bson::Null] }))
    };
    let key: Document = index.keys.iter().enumerate().map(field).collect();
    let ids = doc! { "$firstN": { "input": "$_id", "n": 2 } };
    let pipeline = vec![
        doc! { "$group": { "_id": key, "count": { "$sum": 1 }, "ids": ids } },
        doc! { "$match": { "count": { "$gt": 1 } } },
        doc! { "$limit": DUPLICATES_MAX },
    ];
    doc! { "aggregate": collection, "pipeline": pipeline, "cursor": {}, "allowDiskUse": true }
}

fn first_batch(mut answer: Document) -> Result<Vec<Document>, DbError> {
    let batch =
        answer.get_document_mut("cursor").ok().and_then(|cursor| cursor.remove("firstBatch"));
    let Some(Bson::Array(batch)) = batch else { return Err(unexpected("a list without entries")) };
    let entry = |entry| match entry {
        Bson::Document(entry) => Ok(entry),
        _ => Err(unexpected("an entry that is no document")),
    };
    batch.into_iter().map(entry).collect()
}

fn unexpected(what: &str) -> DbError {
    DbError::Shape(format!("MongoDB answered with {what}"))
}

/// The steps for one collection.
fn steps(declared: &Collection, found: Option<&Found>) -> Vec<Step> {
    let Some(found) = found else { return vec![Step::CreateCollection(*declared)] };
    let mut steps: Vec<Step> = validator_step(declared, &found.options).into_iter().collect();
    let mut others = found.named_indexes();
    let mut missing = Vec::new();
    for index in declared.indexes {
        match others.get(index.name).filter(|other| found.is_same(other, index)) {
            None => missing.push(index),
            Some(other) => {
                steps.extend(expiry_step(declared.name, index, other));
                others.remove(index.name);
            }
        }
    }
    let mut kept = others.clone();
    for index in missing {
        // MongoDB does not keep two indexes of the same name or the same keys.
        let is_rival =
            |(name, other): &(&&str, &&Document)| **name == index.name || has_keys(other, index);
        if !others.iter().any(|other| is_rival(&other)) {
            steps.push(Step::CreateIndex { collection: declared.name, index: *index });
            continue;
        }
        // Another replacement may have dropped a rival already.
        let (rivals, rest) = kept.iter().partition(is_rival);
        let rivals: BTreeMap<&str, &Document> = rivals;
        kept = rest;
        let found = rivals.into_keys().map(str::to_owned).collect();
        steps.push(Step::ReplaceIndex { collection: declared.name, found, index: *index });
    }
    let is_of_release = |name: &&str| is_of_release(declared.name, name);
    let dropped = kept.into_keys().filter(is_of_release).map(str::to_owned);
    steps.extend(dropped.map(|name| Step::DropIndex { collection: declared.name, name }));
    steps
}

/// Whether an index was declared by a release. Operators may create their own under other names.
fn is_of_release(collection: &str, index: &str) -> bool {
    index.strip_prefix(collection).is_some_and(|rest| rest.starts_with('_'))
}

impl Found {
    /// The indexes by name, without the one that every collection has.
    fn named_indexes(&self) -> BTreeMap<&str, &Document> {
        let named = |index| Some((Document::get_str(index, "name").ok()?, index));
        self.indexes.iter().filter_map(named).filter(|(name, _)| *name != "_id_").collect()
    }

    /// Whether an index of the declared name is the declared one, apart from its expiry.
    fn is_same(&self, found: &Document, declared: &Index) -> bool {
        let is_known = |option: &str| {
            INDEX_OPTIONS.contains(&option)
                // Indexes inherit the default of their collection.
                || (option == "collation" && found.get(option) == self.options.get(option))
        };
        has_keys(found, declared)
            && found.get_bool("unique").unwrap_or(false) == declared.unique
            && found.contains_key("expireAfterSeconds") == declared.expire_after.is_some()
            && found.keys().all(|option| is_known(option))
    }
}

/// The step that changes the expiry of an existing index, unless it is the declared one.
fn expiry_step(collection: &'static str, index: &Index, found: &Document) -> Option<Step> {
    let found = found.get("expireAfterSeconds").and_then(whole_number);
    let declared = index.expire_after_seconds();
    let shortens = declared < found;
    (found != declared).then_some(Step::SetExpiry { collection, index: *index, shortens })
}

fn has_keys(found: &Document, index: &Index) -> bool {
    let Ok(key) = found.get_document("key") else { return false };
    // The order of an index's fields matters, which the equality of documents ignores.
    key.iter()
        .map(|(field, order)| (field.as_str(), whole_number(order)))
        .eq(index.keys.iter().map(|(field, order)| (*field, Some(i64::from(*order)))))
}

/// MongoDB returns numbers in the type in which they were sent.
fn whole_number(number: &Bson) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "compared with whole numbers only")]
    match number {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

/// The step that replaces a collection's validator by the declared one, unless they are equal.
fn validator_step(declared: &Collection, options: &Document) -> Option<Step> {
    let found = options.get_document("validator").ok().filter(|validator| !validator.is_empty());
    let shape = match found {
        Some(found) => Shape::of(found),
        None => Some(Shape::default()),
    };
    let level = options.get_str("validationLevel").unwrap_or("strict");
    let is_enforced = options.get_str("validationAction").unwrap_or("error") == "error";
    let is_same = shape.as_ref().is_some_and(|shape| *shape == Shape::declared(declared.required))
        && (declared.required.is_empty() || (level == VALIDATION_LEVEL && is_enforced));
    if is_same {
        return None;
    }
    let loosens = shape.is_some_and(|shape| shape.admits_less_than(declared.required))
        && level != "off"
        && is_enforced;
    Some(Step::SetValidator { collection: *declared, tightens: !loosens })
}

/// The required fields of a validator, each with its types.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shape(BTreeMap<String, BTreeSet<String>>);

impl Shape {
    fn declared(required: &[Field]) -> Self {
        let types = |types: &[&str]| types.iter().map(|name| (*name).to_owned()).collect();
        Self(required.iter().map(|(name, of)| ((*name).to_owned(), types(of))).collect())
    }

    /// The requirements of a validator, if it was created from a declaration.
    fn of(validator: &Document) -> Option<Self> {
        let schema = validator.get_document("$jsonSchema").ok()?;
        let properties = schema.get_document("properties").ok()?;
        let required = schema.get_array("required").ok()?;
        let texts = |array: &[Bson]| -> Option<BTreeSet<String>> {
            array.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let types = |(name, property): (&String, &Bson)| {
            let property = property.as_document().filter(|property| property.len() == 1)?;
            Some((name.clone(), texts(property.get_array("bsonType").ok()?)?))
        };
        let fields: BTreeMap<_, _> = properties.iter().map(types).collect::<Option<_>>()?;
        let is_known = validator.len() == 1
            && schema.len() == 3
            && schema.get_str("bsonType").is_ok_and(|kind| kind == "object")
            && texts(required)?.iter().eq(fields.keys());
        is_known.then_some(Self(fields))
    }

    /// Whether every row that fits this shape also has the `required` fields.
    fn admits_less_than(&self, required: &[Field]) -> bool {
        required.iter().all(|(name, types)| {
            let found = self.0.get(*name);
            found.is_some_and(|found| found.iter().all(|found| types.contains(&found.as_str())))
        })
    }
}

#[cfg(test)]
mod tests;
