//! Guarantee 8 across releases: jobs staged by an old release run in the new one.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    db::{Change, DbError, Txn},
    origin::Origin,
};
use jobs::{BoxError, Job, JobError, Queue, Registry, Running, stage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::support::{EMAIL, World, until};

const KIND: &str = "test.greet";

/// The payload of the old release.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct First {
    name: String,
}

impl Job for First {
    const KIND: &'static str = KIND;
    const QUEUE: Queue = EMAIL;
}

/// The payload of the new release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Third {
    names: Vec<String>,
    language: String,
}

impl Job for Third {
    const KIND: &'static str = KIND;
    const QUEUE: Queue = EMAIL;
    const VERSION: u16 = 3;

    fn upcast(from: u16, mut payload: Value) -> Result<Value, BoxError> {
        if from == 1 {
            let name = payload["name"]
                .as_str()
                .filter(|name| !name.is_empty())
                .ok_or("nobody to greet")?;
            return Ok(json!({ "names": [name] }));
        }
        payload["language"] = "en".into();
        Ok(payload)
    }
}

struct Staged(First);

impl Change for Staged {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, None, &self.0).await.map(drop)
    }
}

type Greeted = Mutex<Vec<Third>>;

async fn greet(job: Third, running: Running<Greeted>) -> Result<(), JobError> {
    running.app.lock().unwrap().push(job);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_an_old_release_run_in_the_new_one() {
    let (world, greeted) = (World::new().await, Arc::new(Greeted::default()));
    world.jobs.commit(&Origin::system(), &Staged(First { name: "Ann".to_owned() })).await.unwrap();
    world
        .jobs
        .enqueue_unstaged(None, &Third { names: vec!["Bob".to_owned()], language: "de".to_owned() })
        .await
        .unwrap();
    let worker = world.work(&Registry::sharing(Arc::clone(&greeted)).on(greet), 1);
    world.until_idle().await;
    let mut seen = greeted.lock().unwrap().clone();
    seen.sort_by(|a, b| a.names.cmp(&b.names));
    let expected = [("Ann", "en"), ("Bob", "de")];
    assert_eq!(
        seen,
        expected.map(|(name, language)| Third {
            names: vec![name.to_owned()],
            language: language.to_owned()
        })
    );
    assert!(world.dead().await.is_empty());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_cannot_be_converted_is_dead_lettered_unchanged() {
    let (world, greeted) = (World::new().await, Arc::new(Greeted::default()));
    world.jobs.commit(&Origin::system(), &Staged(First { name: String::new() })).await.unwrap();
    let worker = world.work(&Registry::sharing(Arc::clone(&greeted)).on(greet), 1);
    until("it is dead", || async { world.dead().await.len() == 1 }).await;
    let letter = world.dead().await.remove(0);
    assert_eq!(
        letter.error,
        "the payload of test.greet cannot be converted from version 1 to 2: nobody to greet"
    );
    // Unchanged, for a release that can convert it.
    let envelope = letter.envelope.unwrap();
    assert_eq!((envelope.version, envelope.payload.get()), (1, r#"{"name":""}"#));
    assert!(greeted.lock().unwrap().is_empty());
    worker.stop(Duration::from_secs(5)).await;
}
