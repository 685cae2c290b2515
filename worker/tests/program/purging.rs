//! Expired rows are purged on the configured schedule, with TTL indexes of MongoDB as a fallback.
use std::time::Duration;

use common::{
    config::PURGE_AFTER_MAX,
    db::{Change, DbError, PlatformScope, Store, Txn},
    origin::Origin,
};
use domain::people::sessions::{Device, Lifetime, Session};
use mongodb::bson::{DateTime, Document, doc};

use crate::support::{prepared, store};

struct SignIn;

#[expect(clippy::disallowed_methods, reason = "the purge only looks at the session's times")]
impl Change for SignIn {
    type Output = Session;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<Session, DbError> {
        let lifetime =
            Lifetime { absolute: Duration::from_hours(1), idle: Duration::from_hours(1) };
        let (user, tenant) = (txn.clock().id(), txn.clock().id());
        Session::create(txn, user, Some(tenant), &Device::default(), lifetime, false).await
    }
}

#[expect(clippy::disallowed_methods, reason = "the session has neither jobs nor revocations")]
async fn sign_in(store: &Store) -> Session {
    store.commit(&Origin::system(), &SignIn).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_purges_expired_rows_on_schedule_and_counts_them() {
    let env = prepared().await;
    let store = store(&env).await;
    let (over, live) = (sign_in(&store).await, sign_in(&store).await);
    // Longer ago than the retention, but not long enough for MongoDB to remove it first.
    let ago = DateTime::from_millis(store.clock().now().timestamp_millis() - 2 * 86_400_000);
    let expire = doc! { "$set": { "expires_at": ago } };
    store.records::<Session>(PlatformScope).update(doc! { "_id": over.id }, expire).await.unwrap();
    let running =
        env.spawn_worker_with(&[("TENANTRY__MAINTENANCE__PURGE_SCHEDULE", "* * * * * *")]).await;
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let gone = async {
        while Session::by_id(&store, over.id).await.unwrap().is_some() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), gone)
        .await
        .unwrap_or_else(|_| panic!("the row is still there: {}", running.log_tail(20)));
    assert!(Session::by_id(&store, live.id).await.unwrap().is_some());
    let counted = async {
        let counted = "tenantry_maintenance_purged_total{kind=\"sessions\"} 1\n";
        while !reqwest::get(format!("{}/metrics", running.internal_url()))
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .contains(counted)
        {
            looks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), counted).await.expect("the purged row is counted");
}

#[tokio::test]
async fn mongodb_removes_rows_that_were_not_purged_for_a_week() {
    let env = prepared().await;
    let client = mongodb::Client::with_uri_str(env.mongodb_uri()).await.unwrap();
    for collection in
        ["registrations", "password_resets", "email_changes", "invitations", "sessions"]
    {
        let answer: Document = client
            .database(env.database())
            .run_command(doc! { "listIndexes": collection })
            .await
            .unwrap();
        let indexes = answer.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
        let spans: Vec<i64> = indexes
            .iter()
            .filter_map(|index| {
                index.as_document()?.get("expireAfterSeconds")?.as_i64().or_else(|| {
                    index.as_document()?.get_i32("expireAfterSeconds").ok().map(i64::from)
                })
            })
            .collect();
        assert_eq!(
            spans,
            [i64::try_from(PURGE_AFTER_MAX.as_secs()).unwrap()],
            "{collection}: {answer}"
        );
    }
    client.shutdown().await;
}
