//! Each test has its own part of the servers.

use testkit::testing::TestEnv;

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
