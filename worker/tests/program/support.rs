//! Environments whose database has the product's collections.

use common::{
    clock::Clock,
    config::{Config, Sources},
    db::Store,
};
use domain::queues;
use testkit::testing::TestEnv;

/// An environment with an empty database that a worker accepts.
pub(crate) async fn prepared() -> TestEnv {
    let migrate = async |env: &TestEnv| {
        store(env).await.migrate(&domain::schema()).await.unwrap();
    };
    TestEnv::prepared("domain", migrate).await
}

/// What a worker reads from the environment variables of `env`.
pub(crate) fn config(env: &TestEnv) -> Config {
    let mut sources = Sources::new(queues::ALL);
    sources.add_environment(env.config_env());
    Config::load(sources).unwrap()
}

/// A connection to the database.
pub(crate) async fn store(env: &TestEnv) -> Store {
    Store::connect(&config(env).mongodb, Clock::system()).await.unwrap()
}
