//! Waiting for a database that a process may work with.

use std::time::Duration;

use common::db::{DbError, Migration, Store};

use crate::Drain;

/// The pause between two looks for a database that does not answer yet.
const PAUSE: Duration = Duration::from_secs(1);

/// Waits until the database answers; tells whether it did before the process was told to stop.
///
/// # Errors
/// When its schema is older or newer than `known`: nothing that waiting would mend.
pub async fn schema_is_current(
    store: &Store,
    known: &[Migration],
    drain: &Drain,
) -> Result<bool, DbError> {
    loop {
        match store.check_schema(known).await {
            Ok(()) => return Ok(true),
            Err(error) if error.is_outage() => tracing::warn!(%error, "database_awaited"),
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = drain.begun() => return Ok(false),
        }
    }
}
