//! How a worker begins, or refuses to.
use std::{
    net::TcpListener,
    process::{Command, Output},
    time::Duration,
};

use common::db::PlatformScope;
use jobs::schedules::ScheduleRow;
use mongodb::bson::DateTime;
use testkit::testing::TestEnv;

use crate::support::{prepared, store};

fn worker(args: &[&str], env: &[(String, String)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.args(args).env_clear().envs(env.iter().cloned()).output().unwrap()
}

fn pairs(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn every_mistake_of_the_configuration_is_reported_and_no_secret_shown() {
    let env = pairs(&[
        ("TENANTRY__AUTH__MASTER_KEY", "canary-not-a-key"),
        ("TENANTRY__REDIS__URL", "canary-no-redis"),
        ("TENANTRY__QUEUES__EMAIL__CONCURRENCY", "0"),
        ("TENANTRY__JOBS__LEESE", "30s"),
    ]);
    for args in [&["run"][..], &["--check-config"], &["health"]] {
        let refused = worker(args, &env);
        let told = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(78), "{told}");
        for key in [
            "auth.master_key",
            "redis.url",
            "queues.email.concurrency",
            "jobs.leese",
            "app.public_url",
        ] {
            assert!(told.contains(key), "{key} is missing in: {told}");
        }
        assert!(!told.contains("canary"), "{told}");
    }
}

#[test]
fn an_invalid_schedule_is_a_mistake_of_the_configuration() {
    let env = pairs(&[
        ("TENANTRY__APP__ENVIRONMENT", "development"),
        ("TENANTRY__MAINTENANCE__PURGE_SCHEDULE", "0 0 30 2 *"),
    ]);
    for args in [&["run"][..], &["--check-config"]] {
        let refused = worker(args, &env);
        let told = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(78), "{told}");
        assert!(told.contains("maintenance.purge_schedule: `0 0 30 2 *`"), "{told}");
    }
}

#[tokio::test]
async fn an_unprepared_database_is_rejected_with_instructions() {
    let env = TestEnv::new().await;
    let refused = worker(&["run"], &env.config_env());
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("run `api migrate up`"), "{told}");
}

#[tokio::test]
async fn a_taken_port_is_reported_with_its_key() {
    let env = prepared().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mut settings = env.config_env();
    settings.push(("TENANTRY__WORKER__INTERNAL_LISTEN".to_owned(), listen));
    // A worker that starts all the same would run until it is stopped.
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_worker"));
    command.arg("run").env_clear().envs(settings).kill_on_drop(true);
    let refused = tokio::time::timeout(Duration::from_mins(1), command.output()).await;
    let refused = refused.expect("it does not start").unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("worker.internal_listen"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_report_the_state() {
    let env = prepared().await.with_own_redis().await;
    let store = store(&env).await;
    assert!(!worker(&["health"], &env.config_env()).status.success(), "no worker is running yet");
    let running = env.spawn_worker().await;
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let listed = async {
        loop {
            looks.tick().await;
            if let Some(process) = store.living_processes().await.unwrap().pop() {
                break process;
            }
        }
    };
    let listed = tokio::time::timeout(Duration::from_mins(1), listed).await.expect("it is listed");
    assert_eq!((listed.kind.as_str(), listed.generation), ("worker", domain::GENERATION));
    assert!(worker(&["health"], &env.config_env()).status.success(), "{}", running.log_tail(20));
    env.redis().stop().await;
    let ready = reqwest::get(format!("{}/health/ready", running.internal_url())).await.unwrap();
    assert_eq!(ready.status(), 503);
    let reason = ready.text().await.unwrap();
    assert!(reason.contains("Redis"), "{reason}");
    assert!(
        worker(&["health"], &env.config_env()).status.success(),
        "it stays alive without Redis"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_canary_runs_and_its_schedule_is_shown() {
    let env = prepared().await;
    let store = store(&env).await;
    // As if workers had stopped long ago, so that a tick is due at once.
    let (name, long_ago) =
        ("maintenance.canary".to_owned(), DateTime::from_millis(1_700_000_000_000));
    let row = ScheduleRow {
        name,
        cron: "* * * * *".to_owned(),
        settled_until: long_ago,
        last_tick: Some(long_ago),
    };
    store.records::<ScheduleRow>(PlatformScope).insert(&row).await.unwrap();
    let shown = || String::from_utf8(worker(&["schedules"], &env.config_env()).stdout).unwrap();
    assert!(
        shown().contains(
            "maintenance.canary       * * * * *        once               2023-11-14T22:13:20.000Z"
        ),
        "{}",
        shown()
    );

    let running = env.spawn_worker().await;
    let metrics = async || {
        reqwest::get(format!("{}/metrics", running.internal_url()))
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    };
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let come = async {
        // A time in seconds is written with its fraction or as a large number, never as a bare 0.
        while metrics().await.contains("\ntenantry_jobs_canary_timestamp_seconds 0\n") {
            looks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), come).await.expect("the canary runs");
    let metrics = metrics().await;
    assert!(metrics.contains("\ntenantry_jobs_canary_timestamp_seconds 1"), "{metrics}");
    assert!(
        !metrics.contains(
            "tenantry_jobs_ticks_total{outcome=\"run\",schedule=\"maintenance.canary\"} 0\n"
        ),
        "{metrics}"
    );
    assert!(!shown().contains("2023-11-14"), "{}", shown());
}
