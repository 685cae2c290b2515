//! Failed attempts: what happens to the job, and how to test it.
//!
//! A handler states whether a retry can help. Here, letters are delivered to a box that opens at
//! the third attempt, to one that never opens, and to one that does not exist. The jobs run in this
//! process, without a worker and without waiting between attempts, as in a test of the handler.

use std::time::Duration;

use common::{
    clock::Clock,
    config::Config,
    db::{Change, DbError, Store, Txn},
    origin::Origin,
};
use jobs::{
    Job, JobError, Jobs, Queue, QueueDeclaration, QueueSettings, Registry, Running, stage,
    testing::{Inline, Retries},
};
use serde::{Deserialize, Serialize};

/// The queue of the job.
const EMAIL: Queue =
    Queue::new(&QueueDeclaration { name: "email", defaults: QueueSettings::DEFAULT });

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
    const QUEUE: Queue = EMAIL;
    /// After the last attempt the job becomes a dead letter, which an operator can inspect and
    /// retry.
    const MAX_ATTEMPTS: u32 = 5;
    /// An attempt that takes longer has failed and is retried.
    const TIMEOUT: Duration = Duration::from_secs(10);
}

async fn deliver(letter: DeliverLetter, running: Running<()>) -> Result<(), JobError> {
    match letter.to {
        // Retries later, after a longer wait each time.
        LetterBox::Stuck if running.attempt < 3 => Err(JobError::retry("the lid is stuck")),
        // Retries after as long as the other side asks for.
        LetterBox::Sealed => {
            Err(JobError::RetryAfter(Duration::from_hours(1), "sealed for an hour".into()))
        }
        // Never retries.
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
    let config = Config::from_environment(&[EMAIL])?;
    let store = Store::connect(&config.mongodb, Clock::system()).await?;
    store.reconcile(jobs::COLLECTIONS).await?;
    let jobs = Jobs::start(store.clone(), &config.redis, &config.jobs)?;
    let postman = Inline::new(&Registry::new(()).on(deliver), &jobs);

    // Running a single job returns the result of its attempt.
    let alone = postman.run(None, &DeliverLetter { to: LetterBox::Gone }).await;
    println!("{}", alone.err().map_or_else(|| "delivered".to_owned(), |error| error.to_string()));

    // Staged jobs run until they end.
    jobs.commit(&Origin::system(), &Post).await?;
    let drained = postman.drain(EMAIL, Retries::AtOnce).await?;
    println!("{} delivered, {} dead, {} retries", drained.succeeded, drained.dead, drained.retried);
    store.close().await;
    Ok(())
}
