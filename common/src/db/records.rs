//! The rows of one collection within a scope.

use futures::TryStreamExt;
use mongodb::{
    ClientSession, Database,
    bson::{self, Document, doc},
    options::ReturnDocument,
};

use super::{
    DbError, Record,
    commands::observed,
    scope::{Admits, Narrowing},
    turns::Turns,
};

/// The only place that holds a raw collection.
#[expect(
    clippy::disallowed_types,
    reason = "this handle wraps raw collections so that nothing else needs them"
)]
type Raw<T> = mongodb::Collection<T>;

/// Reads and writes rows within a scope, and within a transaction if created from one.
pub struct Records<'s, T: Record> {
    raw: Raw<T>,
    turns: Turns,
    narrowing: Document,
    admits: Admits<T>,
    session: Option<&'s mut ClientSession>,
}

/// Runs an action of the driver, in the handle's transaction if it has one, as the command of this
/// name.
macro_rules! run {
    ($records:ident, $command:literal, $action:expr) => {
        observed(&$records.turns, $command, Some(T::COLLECTION), async {
            match $records.session {
                Some(session) => $action.session(session).await,
                None => $action.await,
            }
        })
        .await
    };
}

impl<'s, T: Record> Records<'s, T> {
    pub(super) fn new(
        database: &Database,
        turns: &Turns,
        narrowing: Narrowing<T>,
        session: Option<&'s mut ClientSession>,
    ) -> Self {
        Self {
            raw: database.collection(T::COLLECTION),
            turns: turns.clone(),
            narrowing: narrowing.filter,
            admits: narrowing.admits,
            session,
        }
    }

    /// The scope is a separate conjunct, so that nothing in `filter` can widen it.
    fn narrowed(&self, filter: Document) -> Document {
        if self.narrowing.is_empty() {
            filter
        } else {
            doc! { "$and": [filter, self.narrowing.clone()] }
        }
    }

    /// Finds a row that matches.
    pub async fn find(self, filter: Document) -> Result<Option<T>, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, "find", self.raw.find_one(filter))?)
    }

    /// Finds the first matching row in the order of `sort`.
    pub async fn find_first(self, filter: Document, sort: Document) -> Result<Option<T>, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, "find", self.raw.find_one(filter).sort(sort))?)
    }

    /// Up to `limit` matching rows in the order of `sort`.
    pub async fn list(
        self,
        filter: Document,
        sort: Document,
        limit: i64,
    ) -> Result<Vec<T>, DbError> {
        let filter = self.narrowed(filter);
        let action = self.raw.find(filter).sort(sort).limit(limit);
        observed(&self.turns, "find", Some(T::COLLECTION), async {
            match self.session {
                Some(session) => {
                    let mut cursor = action.session(&mut *session).await?;
                    cursor.stream(session).try_collect().await
                }
                None => action.await?.try_collect().await,
            }
        })
        .await
        .map_err(DbError::from)
    }

    /// Counts the matching rows.
    pub async fn count(self, filter: Document) -> Result<u64, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, "count", self.raw.count_documents(filter))?)
    }

    /// Number of rows in the collection, from its metadata: fast, but inaccurate after a crash of
    /// the server until its next checkpoint.
    pub async fn estimated_count(self) -> Result<u64, DbError> {
        let counting = async { self.raw.estimated_document_count().await };
        Ok(observed(&self.turns, "count", Some(T::COLLECTION), counting).await?)
    }

    /// Inserts a row.
    ///
    /// # Errors
    /// [`DbError::Duplicate`] if a unique index rejects it.
    pub async fn insert(self, row: &T) -> Result<(), DbError> {
        if !(self.admits)(row) {
            return Err(DbError::ForeignTenant);
        }
        run!(self, "insert", self.raw.insert_one(row))?;
        Ok(())
    }

    /// Inserts rows; skips those whose key already exists.
    pub async fn insert_missing(self, rows: &[T]) -> Result<(), DbError> {
        if rows.is_empty() {
            return Ok(());
        }
        if !rows.iter().all(&self.admits) {
            return Err(DbError::ForeignTenant);
        }
        match run!(self, "insert", self.raw.insert_many(rows).ordered(false)).map_err(DbError::from)
        {
            Ok(_) | Err(DbError::Duplicate(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Replaces or inserts whole rows in one round trip.
    ///
    /// # Errors
    /// [`DbError::Duplicate`] if another process inserted one of them at the same moment,
    /// [`DbError::Shape`] if the validator rejects one. The other rows are written nevertheless.
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
        let answer = run!(self, "update", database.run_command(command))?;
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

    /// Makes several updates, each of the row that its filter matches, or of a new one, in one round
    /// trip and in any order. Filters must name the row by its `_id`.
    ///
    /// # Errors
    /// The others are made even if one of them fails.
    pub async fn upsert_all(self, updates: &[(Document, Document)]) -> Result<(), DbError> {
        if updates.is_empty() {
            return Ok(());
        }
        let statements = updates.iter().map(|(filter, update)| {
            doc! { "q": self.narrowed(filter.clone()), "u": update.clone(), "upsert": true }
        });
        let statements: Vec<Document> = statements.collect();
        let database = self.raw.client().database(&self.raw.namespace().db);
        let command = doc! { "update": T::COLLECTION, "updates": statements, "ordered": false };
        let answer = run!(self, "update", database.run_command(command))?;
        first_refusal(&answer).map_or(Ok(()), Err)
    }

    /// Updates the first matching row; returns whether there was one.
    pub async fn update(self, filter: Document, update: Document) -> Result<bool, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, "update", self.raw.update_one(filter, update))?.matched_count > 0)
    }

    /// Updates every matching row; returns how many matched.
    pub async fn update_all(self, filter: Document, update: Document) -> Result<u64, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, "update", self.raw.update_many(filter, update))?.modified_count)
    }

    /// Updates the first matching row and returns its new state.
    pub async fn find_and_update(
        self,
        filter: Document,
        update: Document,
    ) -> Result<Option<T>, DbError> {
        let filter = self.narrowed(filter);
        let action =
            self.raw.find_one_and_update(filter, update).return_document(ReturnDocument::After);
        Ok(run!(self, "findAndModify", action)?)
    }

    /// Updates the matching row, or inserts it.
    ///
    /// # Errors
    /// [`DbError::Duplicate`] if another process inserted it at the same moment.
    pub async fn upsert(self, filter: Document, update: Document) -> Result<(), DbError> {
        let filter = self.narrowed(filter);
        run!(self, "update", self.raw.update_one(filter, update).upsert(true))?;
        Ok(())
    }

    /// Deletes the first matching row and returns it.
    pub async fn take(self, filter: Document) -> Result<Option<T>, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, "findAndModify", self.raw.find_one_and_delete(filter))?)
    }

    /// Deletes every matching row; returns how many there were.
    pub async fn delete_all(self, filter: Document) -> Result<u64, DbError> {
        let filter = self.narrowed(filter);
        Ok(run!(self, "delete", self.raw.delete_many(filter))?.deleted_count)
    }

    /// Deletes up to `limit` matching rows, outside any transaction; returns how many. A row that
    /// no longer matches when it is deleted is kept.
    pub async fn delete_some(self, filter: Document, limit: u32) -> Result<u64, DbError> {
        let filter = self.narrowed(filter);
        let raw = self.raw.clone_with_type::<Document>();
        let finding = raw.find(filter.clone()).projection(doc! { "_id": 1 }).limit(limit.into());
        let rows: Vec<Document> = observed(&self.turns, "find", Some(T::COLLECTION), async {
            finding.await?.try_collect().await
        })
        .await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let ids: Vec<bson::Bson> =
            rows.into_iter().filter_map(|mut row| row.remove("_id")).collect();
        let deleting = self.raw.delete_many(doc! { "$and": [{ "_id": { "$in": ids } }, filter] });
        Ok(observed(&self.turns, "delete", Some(T::COLLECTION), async { deleting.await })
            .await?
            .deleted_count)
    }

    /// Those of `ids` that have a row.
    pub async fn existing<I: Into<bson::Bson> + Copy>(
        self,
        ids: &[I],
    ) -> Result<Vec<String>, DbError> {
        let ids: Vec<bson::Bson> = ids.iter().map(|id| (*id).into()).collect();
        let filter = self.narrowed(doc! { "_id": { "$in": ids } });
        let raw = self.raw.clone_with_type::<Document>();
        let finding = raw.find(filter).projection(doc! { "_id": 1 });
        let rows: Vec<Document> = observed(&self.turns, "find", Some(T::COLLECTION), async {
            finding.await?.try_collect().await
        })
        .await?;
        Ok(rows.iter().filter_map(|row| row.get_str("_id").ok()).map(str::to_owned).collect())
    }
}

/// The first error in the response to a write command, whose overall status is success even so.
fn first_refusal(answer: &Document) -> Option<DbError> {
    let refusal = answer.get_array("writeErrors").ok()?.first()?.as_document()?;
    let message = refusal.get_str("errmsg").unwrap_or("refused").to_owned();
    let is_duplicate = refusal.get_i32("code").is_ok_and(|code| code == super::DUPLICATE_KEY);
    Some(if is_duplicate { DbError::Duplicate("_id_".to_owned()) } else { DbError::Shape(message) })
}
