//! The setup of handler tests: real servers, the demo account, and a worker that runs jobs one at a
//! time.

use std::time::Duration;

use common::{
    clock::Clock,
    config::{Config, Sources},
    crypto::{Hasher, MasterKey},
    db::Store,
    id::TenantId,
};
use domain::{people::users::User, platform::demo, queues, tenancy::belongings::Belonging};
use jobs::{Jobs, testing::Inline};
use testkit::testing::TestEnv;

use crate::app::{App, registry};

/// An installation with the demo account.
pub(crate) struct DemoWorld {
    pub(crate) env: TestEnv,
    pub(crate) store: Store,
    pub(crate) key: MasterKey,
    /// The user of the demo account.
    pub(crate) user: User,
    /// The tenant of the demo account.
    pub(crate) tenant: TenantId,
    pub(crate) jobs: Jobs,
    pub(crate) worker: Inline,
}

impl DemoWorld {
    /// An installation with this clock.
    pub(crate) async fn new(clock: Clock) -> Self {
        let config = |env: &TestEnv| {
            let mut sources = Sources::new(queues::ALL);
            sources.add_environment(env.config_env());
            Config::load(sources).unwrap()
        };
        let migrate = async |env: &TestEnv| {
            let store = Store::connect(&config(env).mongodb, Clock::system()).await.unwrap();
            store.migrate(&domain::schema()).await.unwrap();
        };
        let env = TestEnv::prepared("domain", migrate).await;
        let config = config(&env);
        let store = Store::connect(&config.mongodb, clock).await.unwrap();
        let key = config.auth.master_key.clone();
        let jobs = Jobs::start(store.clone(), &config.redis, &config.jobs).unwrap();
        demo::seed(&jobs, &key, &Hasher::new(1, Duration::from_mins(1)).unwrap()).await.unwrap();
        let user = User::by_email(&store, &demo::EMAIL.parse().unwrap()).await.unwrap().unwrap();
        let tenant = Belonging::first_of(&store, user.id).await.unwrap()[0].tenant.id;
        let worker = Inline::new(&registry(App::new(&config, jobs.clone()).unwrap()), &jobs);
        Self { env, store, key, user, tenant, jobs, worker }
    }
}
