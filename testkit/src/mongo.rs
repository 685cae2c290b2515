//! `testkit mongo`: a MongoDB shell for operators of `cargo xtask up`, where there is no
//! `mongosh`.

use std::time::Duration;

use anyhow::{Context, anyhow};
use mongodb::{
    Client,
    bson::{Bson, Document},
    error::ErrorKind,
    options::ClientOptions,
};
use programs::progress::print;
use serde_json::{Value, json};

/// Operators should not wait for long if it is down.
const SELECTED_WITHIN: Duration = Duration::from_secs(5);
/// Fields of a reply that concern drivers only.
const INTERNAL: [&str; 2] = ["$clusterTime", "operationTime"];

pub(crate) async fn run(uri: &str, database: &str, command: &str) -> anyhow::Result<()> {
    let command: Document =
        serde_json::from_str(command).context("the command is not Extended JSON")?;
    let mut options = ClientOptions::parse(uri).await?;
    options.server_selection_timeout = Some(SELECTED_WITHIN);
    let client = Client::with_options(options)?;
    let mut reply = client.database(database).run_command(command).await.map_err(readable)?;
    for field in INTERNAL {
        reply.remove(field);
    }
    print(&relaxed(&Bson::Document(reply))?.to_string());
    Ok(())
}

/// The server's own words, if it rejected the command.
fn readable(error: mongodb::error::Error) -> anyhow::Error {
    match error.kind.as_ref() {
        ErrorKind::Command(refusal) => anyhow!("{}: {}", refusal.code_name, refusal.message),
        _ => error.into(),
    }
}

/// Relaxed Extended JSON, as `mongosh` prints it. `serde` writes dates in the canonical form.
fn relaxed(value: &Bson) -> anyhow::Result<Value> {
    Ok(match value {
        Bson::Document(document) => {
            let fields = document.iter().map(|(name, value)| Ok((name.clone(), relaxed(value)?)));
            Value::Object(fields.collect::<anyhow::Result<_>>()?)
        }
        Bson::Array(values) => Value::Array(values.iter().map(relaxed).collect::<Result<_, _>>()?),
        Bson::DateTime(at) => json!({ "$date": at.try_to_rfc3339_string()? }),
        other => serde_json::to_value(other)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_json_is_read_and_written() {
        let text = r#"{"id":{"$oid":"65f000000000000000000000"},"update":"leases","updates":[{"limit":1,"q":{"at":{"$gt":{"$date":"2025-11-24T22:07:01Z"}}}}]}"#;
        let document: Document = serde_json::from_str(text).unwrap();
        let update = document.get_array("updates").unwrap()[0].as_document().unwrap();
        let at = update.get_document("q").unwrap().get_document("at").unwrap();
        assert!(matches!(at.get("$gt"), Some(Bson::DateTime(_))));
        assert_eq!(relaxed(&Bson::Document(document)).unwrap().to_string(), text);
    }
}
