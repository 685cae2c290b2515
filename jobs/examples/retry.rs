//! What becomes of attempts that fail, and how to test it.
//!
//! A handler says whether another try can help. Here a letter is delivered to a box that opens at
//! the third attempt, to one that never does, and to one that is not there. The jobs run in this
//! process, without a worker and without waiting between attempts, as a test of the handler would
//! run them.

use std::time::Duration;

use common::{
    clock::Clock,
    config::Config,
    db::{Change, DbError, Store, Txn},
};
use jobs::{
    Job, JobError, Jobs, Queue, Registry, Running, stage,
    testing::{Inline, Retries},
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum LetterBox {
    Stuck,
    Sealed,
    Gone,
}

#[derive(Debug, Serialize, Deserialize)]
struct DeliverLetter {
    to: LetterBox,
}

impl Job for DeliverLetter {
    const KIND: &'static str = "example.deliver_letter";
    const QUEUE: Queue = Queue::Email;
    /// Then it goes to the dead letters, which an operator can look at and have tried again.
    const MAX_ATTEMPTS: u32 = 5;
    /// An attempt that takes longer has failed and is tried again.
    const TIMEOUT: Duration = Duration::from_secs(10);
}

async fn deliver(letter: DeliverLetter, running: Running<()>) -> Result<(), JobError> {
    match letter.to {
        // Later, each time after a longer wait.
        LetterBox::Stuck if running.attempt < 3 => Err(JobError::retry("the lid is stuck")),
        // After as long as whoever is asked demands.
        LetterBox::Sealed => {
            Err(JobError::RetryAfter(Duration::from_hours(1), "sealed for an hour".into()))
        }
        // Never again.
        LetterBox::Gone => Err(JobError::fail("there is no box")),
        LetterBox::Stuck => Ok(()),
    }
}

struct Post;

impl Change for Post {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        for to in [LetterBox::Stuck, LetterBox::Sealed, LetterBox::Gone] {
            stage(txn, None, &DeliverLetter { to }).await?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::from_environment()?;
    let store = Store::connect(&config.mongodb, Clock::system()).await?;
    store.migrate(jobs::MIGRATIONS).await?;
    let jobs = Jobs::start(store.clone(), &config.redis, &config.jobs)?;
    let postman = Inline::new(&Registry::new(()).on(deliver), &jobs);

    // One job by itself answers what its attempt ended with.
    let alone = postman.run(None, &DeliverLetter { to: LetterBox::Gone }).await;
    println!("{}", alone.err().map_or_else(|| "delivered".to_owned(), |error| error.to_string()));

    // Staged ones are run until they are done with. The store's own commit hands nothing to Redis.
    store.commit(&Post).await?;
    let drained = postman.drain(Queue::Email, Retries::AtOnce).await?;
    println!(
        "{} delivered, {} given up, {} further attempts",
        drained.succeeded, drained.dead, drained.retried
    );
    store.close().await;
    Ok(())
}
