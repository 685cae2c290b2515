//! Throttling on a Redis Cluster: scripts and keys must agree with its slots.

use std::time::Duration;

use common::{
    config::{Config, Sources},
    crypto::MasterKey,
    networks::Network,
    redis::Connections,
};
use domain::access::throttle::{Act, Limits, Subject, Throttle, TooMany, Try};
use testkit::servers::RedisCluster;

/// Each process counts for itself when Redis fails, so only this test shows that the scripts work on a
/// cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_counts_attempts() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = RedisCluster::start(folder.path()).await.unwrap();
    let mut sources = Sources::default();
    sources.add_environment([
        ("TENANTRY__APP__ENVIRONMENT".to_owned(), "development".to_owned()),
        ("TENANTRY__REDIS__URL".to_owned(), cluster.url()),
    ]);
    let redis = Connections::new(&Config::load(sources).unwrap().redis).unwrap();
    let key = MasterKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
    let throttle = Throttle::new(redis, key);
    let limits = Limits {
        per_account: 2,
        per_account_max: 3,
        per_network: 3,
        window: Duration::from_mins(5),
    };
    let tried = |account, address| Try {
        act: Act::SignIn,
        subject: Subject::Account(account),
        network: Network::of_text(address),
        weight: 1,
    };
    let (ada, eve) = (tried("ada", "192.0.2.1"), tried("ada", "198.51.100.1"));
    let first = throttle.admit(eve, limits).await.unwrap();
    let second = throttle.admit(eve, limits).await.unwrap();
    assert_eq!((first.slows_account, second.slows_account), (false, true));
    throttle.admit(eve, limits).await.unwrap_err();
    // Now each network has one attempt, as long as there are not too many.
    let own = throttle.admit(ada, limits).await.unwrap();
    let TooMany(wait) = throttle.admit(ada, limits).await.unwrap_err();
    assert!(wait > Duration::from_mins(4) && wait <= limits.window, "{wait:?}");
    throttle.admit(tried("ada", "203.0.113.1"), limits).await.unwrap_err();
    assert_eq!((throttle.may_notify(eve).await, throttle.may_notify(ada).await), (true, false));
    throttle.take_back(second).await;
    throttle.succeeded(own).await;
    // Back to one; the next reaches the limit for unfamiliar networks, but not for familiar ones.
    let _stranger = throttle.admit(eve, limits).await.unwrap();
    throttle.admit(eve, limits).await.unwrap_err();
    for _ in 0..2 {
        let _own = throttle.admit(ada, limits).await.unwrap();
    }
    throttle.admit(ada, limits).await.unwrap_err();
    throttle.forgive(ada).await;
    let _own = throttle.admit(ada, limits).await.unwrap();
    for _ in 0..2 {
        let _another = throttle.admit(tried("ada", "203.0.113.1"), limits).await.unwrap();
    }
    let _third = throttle.admit(tried("another", "198.51.100.1"), limits).await.unwrap();
    throttle.admit(tried("yet another", "198.51.100.1"), limits).await.unwrap_err();
}
