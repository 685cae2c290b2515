//! The rows of one collection that a scope may touch.

use futures::TryStreamExt;
use mongodb::{
    ClientSession, Database,
    bson::{self, Document, doc},
    options::ReturnDocument,
};

use super::{
    DbError, Record,
    scope::{Admits, Narrowing},
};

/// The only place that holds a raw collection.
#[expect(
    clippy::disallowed_types,
    reason = "this handle is what keeps raw collections away from everyone else"
)]
type Raw<T> = mongodb::Collection<T>;

/// Reads and writes within a scope, and within a transaction if it came from one.
pub struct Records<'s, T: Record> {
    raw: Raw<T>,
    narrowing: Document,
    admits: Admits<T>,
    session: Option<&'s mut ClientSession>,
}

/// Runs an action of the driver, in the handle's transaction if it has one.
macro_rules! run {
    ($records:ident, $action:expr) => {
        match $records.session {
            Some(session) => $action.session(session).await,
            None => $action.await,
        }
    };
}

impl<'s, T: Record> Records<'s, T> {
    pub(super) fn new(
        database: &Database,
        narrowing: Narrowing<T>,
        session: Option<&'s mut ClientSession>,
    ) -> Self {
        Self {
            raw: database.collection(T::COLLECTION),
            narrowing: narrowing.filter,
            admits: narrowing.admits,
            session,
        }
    }

    /// The scope comes last, as a conjunction, so that nothing in `filter` can widen it.
    fn narrowed(&self, filter: Document) -> Document {
        if self.narrowing.is_empty() {
            filter
        } else {
            doc! { "$and": [filter, self.narrowing.clone()] }
        }
    }

    /// The first row that matches.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn find(self, filter: Document) -> Result<Option<T>, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, self.raw.find_one(filter))?)
    }

    /// The newest row that matches, by `sort`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn find_first(self, filter: Document, sort: Document) -> Result<Option<T>, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, self.raw.find_one(filter).sort(sort))?)
    }

    /// Up to `limit` rows that match, in the order of `sort`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(
        self,
        filter: Document,
        sort: Document,
        limit: i64,
    ) -> Result<Vec<T>, DbError> {
        let filter = self.narrowed(filter);
        let action = self.raw.find(filter).sort(sort).limit(limit);
        match self.session {
            Some(session) => {
                let mut cursor = action.session(&mut *session).await?;
                Ok(cursor.stream(session).try_collect().await?)
            }
            None => Ok(action.await?.try_collect().await?),
        }
    }

    /// How many rows match.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn count(self, filter: Document) -> Result<u64, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, self.raw.count_documents(filter))?)
    }

    /// How many rows there are at all, from the collection's metadata: instant, and off after a
    /// crash of the server until its next checkpoint.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn estimated_count(self) -> Result<u64, DbError> {
        Ok(self.raw.estimated_document_count().await?)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`DbError::Duplicate`] when a unique index refuses it.
    pub async fn insert(self, row: &T) -> Result<(), DbError> {
        if !(self.admits)(row) {
            return Err(DbError::ForeignTenant);
        }
        run!(self, self.raw.insert_one(row))?;
        Ok(())
    }

    /// Adds rows; those whose key exists already are left as they are.
    ///
    /// # Errors
    /// When the store fails for another reason than a key that exists.
    pub async fn insert_missing(self, rows: &[T]) -> Result<(), DbError> {
        if rows.is_empty() {
            return Ok(());
        }
        if !rows.iter().all(&self.admits) {
            return Err(DbError::ForeignTenant);
        }
        match run!(self, self.raw.insert_many(rows).ordered(false)).map_err(DbError::from) {
            Ok(_) | Err(DbError::Duplicate(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes rows whole, in one round trip: one that exists already is replaced.
    ///
    /// # Errors
    /// [`DbError::Duplicate`] when another process added one of them at the same moment, and
    /// [`DbError::Shape`] when the validator refuses one; the others are written even so.
    pub async fn put_all(self, rows: &[T]) -> Result<(), DbError> {
        if rows.is_empty() {
            return Ok(());
        }
        if !rows.iter().all(&self.admits) {
            return Err(DbError::ForeignTenant);
        }
        let updates: Vec<Document> =
            rows.iter().map(|row| self.replacement(row)).collect::<Result<_, _>>()?;
        let database = self.raw.client().database(&self.raw.namespace().db);
        let command = doc! { "update": T::COLLECTION, "updates": updates, "ordered": false };
        let answer = run!(self, database.run_command(command))?;
        first_refusal(&answer).map_or(Ok(()), Err)
    }

    /// One statement of the `update` command.
    fn replacement(&self, row: &T) -> Result<Document, DbError> {
        let row =
            bson::serialize_to_document(row).map_err(|error| DbError::Shape(error.to_string()))?;
        let id = row
            .get("_id")
            .cloned()
            .ok_or_else(|| DbError::Shape("a row without _id".to_owned()))?;
        Ok(doc! { "q": self.narrowed(doc! { "_id": id }), "u": row, "upsert": true })
    }

    /// Changes the first row that matches; tells whether there was one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn update(self, filter: Document, update: Document) -> Result<bool, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, self.raw.update_one(filter, update))?.matched_count > 0)
    }

    /// Changes every row that matches; tells how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn update_all(self, filter: Document, update: Document) -> Result<u64, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, self.raw.update_many(filter, update))?.modified_count)
    }

    /// Changes the first row that matches and answers it as it is afterwards.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn find_and_update(
        self,
        filter: Document,
        update: Document,
    ) -> Result<Option<T>, DbError> {
        let filter = self.narrowed(filter);
        let action =
            self.raw.find_one_and_update(filter, update).return_document(ReturnDocument::After);
        Ok(run!(self, action)?)
    }

    /// Changes the row that matches, or adds it; tells whether one matched or was added.
    ///
    /// # Errors
    /// [`DbError::Duplicate`] when another process added it at the same moment.
    pub async fn upsert(self, filter: Document, update: Document) -> Result<(), DbError> {
        let filter = self.narrowed(filter);
        run!(self, self.raw.update_one(filter, update).upsert(true))?;
        Ok(())
    }

    /// Removes the first row that matches and answers it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn take(self, filter: Document) -> Result<Option<T>, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, self.raw.find_one_and_delete(filter))?)
    }

    /// Removes every row that matches; tells how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete_all(self, filter: Document) -> Result<u64, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, self.raw.delete_many(filter))?.deleted_count)
    }

    /// Removes up to `limit` rows that match, outside any transaction; tells how many. One that was
    /// found and does not match any more stays.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete_some(self, filter: Document, limit: u32) -> Result<u64, DbError> {
        let filter = self.narrowed(filter);
        let found = self
            .raw
            .clone_with_type::<Document>()
            .find(filter.clone())
            .projection(doc! { "_id": 1 })
            .limit(limit.into())
            .await?;
        let rows: Vec<Document> = found.try_collect().await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let ids: Vec<bson::Bson> =
            rows.into_iter().filter_map(|mut row| row.remove("_id")).collect();
        Ok(self
            .raw
            .delete_many(doc! { "$and": [{ "_id": { "$in": ids } }, filter] })
            .await?
            .deleted_count)
    }

    /// The ids among `ids` that have a row.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn existing<I: Into<bson::Bson> + Copy>(
        self,
        ids: &[I],
    ) -> Result<Vec<String>, DbError> {
        let ids: Vec<bson::Bson> = ids.iter().map(|id| (*id).into()).collect();
        let filter = self.narrowed(doc! { "_id": { "$in": ids } });
        let found = self
            .raw
            .clone_with_type::<Document>()
            .find(filter)
            .projection(doc! { "_id": 1 })
            .await?;
        let rows: Vec<Document> = found.try_collect().await?;
        Ok(rows.iter().filter_map(|row| row.get_str("_id").ok()).map(str::to_owned).collect())
    }
}

/// Why the server refused a statement of a write command, whose answer is a success even so.
fn first_refusal(answer: &Document) -> Option<DbError> {
    let refusal = answer.get_array("writeErrors").ok()?.first()?.as_document()?;
    let message = refusal.get_str("errmsg").unwrap_or("refused").to_owned();
    let is_duplicate = refusal.get_i32("code").is_ok_and(|code| code == super::DUPLICATE_KEY);
    Some(if is_duplicate { DbError::Duplicate("_id_".to_owned()) } else { DbError::Shape(message) })
}
