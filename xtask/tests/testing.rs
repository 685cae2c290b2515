//! Each test has its own share of the servers, and programs that become ready, die and come back.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails has failed")]

use std::time::Duration;

use xtask::{
    servers::{Process, ProcessSpec, free_port},
    testing::TestEnv,
};

fn value<'a>(env: &'a [(String, String)], name: &str) -> &'a str {
    env.iter()
        .find(|(key, _)| key == name)
        .map_or_else(|| panic!("{name} is missing"), |(_, value)| value)
}

#[tokio::test]
async fn two_tests_share_servers_and_nothing_else() {
    let (one, other) = tokio::join!(TestEnv::new(), TestEnv::new());
    assert_eq!((one.mongodb_uri(), one.redis_url()), (other.mongodb_uri(), other.redis_url()));
    assert_ne!(one.database(), other.database());
    assert_ne!(one.key_prefix(), other.key_prefix());
    assert_ne!(one.mail().port(), other.mail().port());
    assert!(one.database().len() < 63);
    let env = one.config_env();
    assert_eq!(value(&env, "TENANTRY__MONGODB__DATABASE"), one.database());
    assert_eq!(value(&env, "TENANTRY__SMTP__PORT"), one.mail().port().to_string());
    assert_eq!(
        value(&env, "TENANTRY__APP__PUBLIC_URL"),
        format!("http://{}", value(&env, "TENANTRY__API__LISTEN"))
    );
    one.cleanup().await;
}

#[tokio::test]
async fn a_private_environment_has_servers_to_disturb() {
    let (private, shared) = tokio::join!(TestEnv::private(), TestEnv::new());
    assert_ne!(private.redis_url(), shared.redis_url());
    private.redis().kill().await;
    private.redis().start_again().await.unwrap();
}

/// Python's web server in a folder with a file `health/ready` stands for one of our programs.
fn program(folder: &std::path::Path) -> ProcessSpec {
    let port = free_port().unwrap();
    let python = xtask::servers::install::on_path("python3").unwrap();
    let args = [
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "--directory",
        folder.to_str().unwrap(),
        &port.to_string(),
    ];
    let mut spec = ProcessSpec::new("program", python, &args, folder.join("log"), port);
    spec.ready_within = Duration::from_secs(5);
    spec
}

#[tokio::test]
async fn a_program_is_ready_when_it_says_so_and_comes_back_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("health")).unwrap();
    let process = Process::spawn(program(folder.path())).unwrap();
    let early = tokio::time::timeout(Duration::from_millis(500), process.ready()).await;
    assert!(early.is_err(), "a 404 is not ready");
    std::fs::write(folder.path().join("health/ready"), "").unwrap();
    process.ready().await.unwrap();
    assert!(process.log().contains("GET /health/ready"));

    process.kill().await;
    assert!(!process.is_ready().await);
    process.start_again().await.unwrap();
    process.terminate();
    assert!(process.wait(Duration::from_secs(5)).await.is_ok());
}

#[tokio::test]
async fn a_program_that_ends_early_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = program(folder.path());
    spec.spec.args = vec!["-c".into(), "import sys; sys.exit('no such luck')".into()];
    let refused = format!("{:#}", Process::start(spec).await.unwrap_err());
    assert!(refused.contains("no such luck") && refused.contains("exit status: 1"), "{refused}");
}
