//! How a worker begins, or refuses to.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::{Command, Output};

use common::{
    ambient::Ambient,
    config::{Config, Sources},
    db::Store,
};
use xtask::testing::TestEnv;

fn worker(args: &[&str], env: &[(String, String)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.args(args).env_clear().envs(env.iter().cloned()).output().unwrap()
}

fn pairs(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn every_mistake_of_the_configuration_is_named_and_no_secret_shown() {
    let env = pairs(&[
        ("TENANTRY__AUTH__MASTER_KEY", "canary-not-a-key"),
        ("TENANTRY__REDIS__URL", "canary-no-redis"),
        ("TENANTRY__WORKER__EMAIL_CONCURRENCY", "0"),
        ("TENANTRY__JOBS__LEESE", "30s"),
    ]);
    for args in [&["run"][..], &["--check-config"], &["health"]] {
        let refused = worker(args, &env);
        let told = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(78), "{told}");
        for key in ["auth.master_key", "redis.url", "worker.email_concurrency", "jobs.leese", "app.public_url"] {
            assert!(told.contains(key), "{key} is missing in: {told}");
        }
        assert!(!told.contains("canary"), "{told}");
    }
}

#[tokio::test]
async fn an_unprepared_database_is_refused_with_what_to_do() {
    let env = TestEnv::new().await;
    let refused = worker(&["run"], &env.config_env());
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("run `api migrate up`"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_tell_how_it_is() {
    let env = TestEnv::private().await;
    let mut sources = Sources::default();
    sources.add_environment(env.config_env());
    let config = Config::load(sources).unwrap();
    Store::connect(&config.mongodb, Ambient::system()).await.unwrap().migrate(&jobs::migrations()).await.unwrap();
    assert!(!worker(&["health"], &env.config_env()).status.success(), "nothing is there yet");
    let running = env.spawn_worker().await;
    assert!(worker(&["health"], &env.config_env()).status.success(), "{}", running.log_tail(20));
    env.redis().stop().await;
    let ready = reqwest::get(format!("{}/health/ready", running.internal_url())).await.unwrap();
    assert_eq!(ready.status(), 503);
    let reason = ready.text().await.unwrap();
    assert!(reason.contains("Redis"), "{reason}");
    assert!(worker(&["health"], &env.config_env()).status.success(), "it lives on without Redis");
}
