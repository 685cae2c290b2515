//! The programs that `cargo xtask chaos` kills: `produce` stages and enqueues jobs at a fixed rate
//! and records what was accepted; `work` runs the jobs and records each effect.

mod job;
mod produce;
mod work;
use std::{error::Error, str::FromStr};

use common::{clock::Clock, config::Config, db::Store};
use jobs::Jobs;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

enum Role {
    Produce,
    Work,
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "produce" => Ok(Self::Produce),
            "work" => Ok(Self::Work),
            other => Err(format!("`{other}` is neither `produce` nor `work`")),
        }
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let role: Role = std::env::args().nth(1).unwrap_or_default().parse()?;
    let config = Config::from_environment(&[job::EMAIL])?;
    let _telemetry = common::telemetry::start(&config.telemetry, "chaos")?;
    let store = Store::connect(&config.mongodb, Clock::system()).await?;
    store.reconcile(jobs::COLLECTIONS).await?;
    let jobs = Jobs::start(store.clone(), &config.redis, &config.jobs)?;
    let ended = match role {
        Role::Produce => produce::run(&config, &store, &jobs).await,
        Role::Work => work::run(&config, store.clone(), jobs).await,
    };
    store.close().await;
    ended
}
