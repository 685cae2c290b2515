//! Enqueueing jobs: staged with a change, or directly.
//!
//! A staged job runs if, and only if, its change commits. Enqueueing directly is faster and meant
//! for work that can be computed again: jobs that Redis loses are lost.

use common::{
    clock::Clock,
    config::Config,
    db::{Change, Data, DbError, PlatformScope, Record, Store, Txn},
    origin::Origin,
};
use jobs::{Job, Jobs, Queue, QueueDeclaration, QueueSettings, stage, testing::staged};
use serde::{Deserialize, Serialize};

/// The queue of the job.
const EMAIL: Queue =
    Queue::new(&QueueDeclaration { name: "email", defaults: QueueSettings::DEFAULT });

/// The job, with ids as its payload.
#[derive(Debug, Serialize, Deserialize)]
struct WelcomeGuest {
    guest: u32,
}

impl Job for WelcomeGuest {
    const KIND: &'static str = "example.welcome_guest";
    const QUEUE: Queue = EMAIL;
}

#[derive(Debug, Serialize, Deserialize)]
struct Guest {
    #[serde(rename = "_id")]
    id: u32,
}

impl Record for Guest {
    const COLLECTION: &'static str = "guests";
    const DATA: Data = Data::of_platform();
}

/// The change that stages the job. A guest arrives once: a second time the row is rejected, and the
/// job with it.
struct Arrive {
    guest: u32,
}

impl Change for Arrive {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        txn.records::<Guest>(PlatformScope).insert(&Guest { id: self.guest }).await?;
        stage(txn, None, &WelcomeGuest { guest: self.guest }).await.map(drop)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::from_environment(&[EMAIL])?;
    let store = Store::connect(&config.mongodb, Clock::system()).await?;
    store.reconcile(jobs::COLLECTIONS).await?;
    let jobs = Jobs::start(store.clone(), &config.redis, &config.jobs)?;

    for guest in [1, 2, 2] {
        match jobs.commit(&Origin::system(), &Arrive { guest }).await {
            Ok(()) => println!("guest {guest} arrived"),
            Err(error) => println!("guest {guest} did not arrive: {error}"),
        }
    }
    println!("{} jobs are staged", staged::<WelcomeGuest>(&store).await?.len());

    let many: Vec<WelcomeGuest> = (100..1_100).map(|guest| WelcomeGuest { guest }).collect();
    let ids = jobs.enqueue_all_unstaged(None, &many).await?;
    println!("{} more jobs were enqueued directly", ids.len());

    // Committed jobs are enqueued in Redis in the background.
    jobs.close(config.redis.timeout).await;
    println!("{} jobs are ready for a worker", jobs.broker().stats(EMAIL).await?.ready);
    store.close().await;
    Ok(())
}
