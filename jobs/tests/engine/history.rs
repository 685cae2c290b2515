//! History: how each job ended, kept for the configured time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{
    db::{Change, DbError, PlatformScope, TenantScope, Txn},
    id::{JobId, TenantId},
    origin::Origin,
};
use jobs::{
    Cancelled, JobError, JobFilter, JobState, RESULT_BYTES_MAX, Registry, Running,
    history::{Ended, HistoryEntry, HistoryFilter},
    stage,
};
use mongodb::bson::{DateTime, doc};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::support::{EMAIL, MAINTENANCE, Probe, Worker, World, until};

const KEPT: &[(&str, &str)] = &[("JOBS__HISTORY_TTL", "1h")];
const HOUR: Duration = Duration::from_hours(1);

struct Stage {
    n: u32,
    tenant: Option<TenantId>,
}

impl Change for Stage {
    type Output = JobId;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<JobId, DbError> {
        stage(txn, self.tenant, &Probe { n: self.n }).await
    }
}

/// Number 1 reports a result at its second attempt, number 2 dies until `healed` is set, number 3
/// reports too large a result, number 5 never ends, number 6 is retried after an hour, all others
/// do nothing.
#[derive(Default)]
struct Ward {
    healed: AtomicBool,
}

async fn act(probe: Probe, running: Running<Ward>) -> Result<(), JobError> {
    match probe.n {
        1 if running.attempt == 1 => {
            running.result("of an attempt that fails")?;
            Err(JobError::retry("not yet"))
        }
        1 => Ok(running.result(&json!({ "mails": 3 }))?),
        2 if !running.app.healed.load(Ordering::Relaxed) => Err(JobError::fail("no such mailbox")),
        3 => Ok(running.result(&"x".repeat(RESULT_BYTES_MAX))?),
        5 => std::future::pending().await,
        6 => Err(JobError::RetryAfter(HOUR, "not yet".into())),
        _ => Ok(()),
    }
}

fn work(world: &World, ward: &Arc<Ward>) -> Worker {
    world.work(&Registry::sharing(Arc::clone(ward)).on(act), 4)
}

async fn history(world: &World, filter: &HistoryFilter) -> Vec<HistoryEntry> {
    world.jobs.history(filter, 100).await.unwrap()
}

async fn entry(world: &World, id: JobId) -> HistoryEntry {
    let filter = HistoryFilter { ids: vec![id], ..HistoryFilter::default() };
    let mut found = history(world, &filter).await;
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_is_kept_with_its_result() {
    let (world, ward) = (World::with(KEPT).await, Arc::new(Ward::default()));
    let worker = work(&world, &ward);
    let (succeeding, dying) = (world.stage(1).await, world.stage(2).await);
    let unstaged = world.jobs.enqueue_unstaged(None, &Probe { n: 4 }).await.unwrap();
    let too_large = world.jobs.enqueue_unstaged(None, &Probe { n: 3 }).await.unwrap();
    until("all have ended", || async {
        history(&world, &HistoryFilter::default()).await.len() == 4
    })
    .await;
    world.until_idle().await;

    let success = entry(&world, succeeding).await;
    assert_eq!(
        (success.outcome, success.attempts, success.queue.as_str()),
        (Ended::Success, 2, "email")
    );
    assert_eq!(
        (success.kind.as_str(), success.result.as_deref()),
        ("test.probe", Some("{\"mails\":3}"))
    );
    let times = [Some(success.enqueued_at), success.started_at, Some(success.finished_at)];
    assert!(times.is_sorted() && success.duration_ms.is_some(), "{success:?}");
    let dead = entry(&world, dying).await;
    assert_eq!(
        (dead.outcome, dead.attempts, dead.error.as_deref()),
        (Ended::Dead, 1, Some("no such mailbox"))
    );
    assert_eq!(dead.result, None);
    assert_eq!(entry(&world, unstaged).await.outcome, Ended::Success);
    let refused = entry(&world, too_large).await;
    assert!(refused.error.is_some_and(|error| error.contains("at most 4096 are kept")));

    // A job that ends again replaces its entry.
    ward.healed.store(true, Ordering::Relaxed);
    let filter = JobFilter { ids: vec![dying], ..JobFilter::default() };
    let letters = world.jobs.dead_letters(EMAIL, &filter, 1).await.unwrap();
    world.jobs.replay(EMAIL, &letters).await.unwrap();
    world.until_idle().await;
    let healed = entry(&world, dying).await;
    assert_eq!((healed.outcome, healed.error), (Ended::Success, None));
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_leaves_an_entry_in_every_state() {
    let settings = [KEPT, &[("QUEUES__EMAIL__TENANT_CONCURRENCY", "1")]].concat();
    let (world, ward) = (World::with(&settings).await, Arc::new(Ward::default()));
    // One slot, occupied by the job that never ends.
    let worker = world.work(&Registry::sharing(Arc::clone(&ward)).on(act), 1);
    let tenant: Option<TenantId> = Some(world.store.clock().id());
    let until_in = async |id: JobId, state: JobState| {
        let is_there = || async {
            world.jobs.find(id).await.unwrap().is_some_and(|job| job.status.state() == state)
        };
        until(&format!("{id} is {state}"), is_there).await;
    };
    let retried = world.stage(6).await;
    until_in(retried, JobState::Delayed).await;
    let running = world.jobs.commit(&Origin::system(), &Stage { n: 5, tenant }).await.unwrap();
    until_in(running, JobState::Running).await;
    let ready = world.stage(0).await;
    until_in(ready, JobState::Ready).await;
    let held = world.jobs.commit(&Origin::system(), &Stage { n: 0, tenant }).await.unwrap();
    until_in(held, JobState::Held).await;
    let unstaged_held = world.jobs.enqueue_unstaged(tenant, &Probe { n: 0 }).await.unwrap();
    let unstaged = world.jobs.enqueue_unstaged_in(None, &Probe { n: 0 }, HOUR).await.unwrap();
    // Committed by a process that died before it enqueued the job; the relay may or may not have
    // done so by now.
    let staged =
        world.store.commit(&Origin::system(), &Stage { n: 0, tenant: None }).await.unwrap().0;

    let out = Cancelled::Removed;
    let all =
        [retried, running, ready, held, unstaged_held, unstaged, staged, world.store.clock().id()];
    let cancelled = world.jobs.cancel(EMAIL, &all).await.unwrap();
    assert_eq!(
        cancelled,
        [out, Cancelled::StopRequested, out, out, out, out, out, Cancelled::Unknown]
    );
    until("all have entries", || async {
        history(&world, &HistoryFilter::default()).await.len() == 6
    })
    .await;
    for (id, attempts) in
        [(retried, 1), (running, 1), (ready, 0), (held, 0), (unstaged, 0), (staged, 0)]
    {
        let entry = entry(&world, id).await;
        assert_eq!(
            (entry.outcome, entry.attempts, entry.kind.as_str()),
            (Ended::Cancelled, attempts, "test.probe"),
            "{entry:?}"
        );
        assert_eq!(
            (entry.started_at.is_some(), entry.duration_ms.is_some()),
            (id == running, id == running)
        );
        assert_eq!((entry.error, entry.result), (None, None));
    }
    let filter =
        HistoryFilter { outcome: Some(Ended::Cancelled), tenant, ..HistoryFilter::default() };
    let ours: Vec<JobId> = history(&world, &filter).await.iter().map(|entry| entry.id).collect();
    assert_eq!(ours.len(), 2, "{ours:?}");
    assert!(ours.contains(&running) && ours.contains(&held), "{ours:?}");
    world.until_idle().await;
    worker.stop(Duration::from_secs(5)).await;
}

#[test]
fn ends_are_found_by_name() {
    for ended in Ended::ALL {
        assert_eq!(ended.name().parse(), Ok(*ended));
    }
    assert!("lost".parse::<Ended>().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_filtered_by_content_and_tenant() {
    let (world, ward) = (World::with(KEPT).await, Arc::new(Ward::default()));
    let (tenant, other): (TenantId, TenantId) =
        (world.store.clock().id(), world.store.clock().id());
    for (n, tenant) in [(0, Some(tenant)), (2, Some(tenant)), (0, Some(other)), (0, None)] {
        world.jobs.commit(&Origin::system(), &Stage { n, tenant }).await.unwrap();
    }
    let worker = work(&world, &ward);
    until("all have ended", || async {
        history(&world, &HistoryFilter::default()).await.len() == 4
    })
    .await;

    let any = HistoryFilter::default();
    let of = |found: Vec<HistoryEntry>| {
        found.iter().map(|entry| (entry.outcome, entry.tenant_id)).collect::<Vec<_>>()
    };
    let ours = world.jobs.history_within(TenantScope::of_job(tenant), &any, 100).await.unwrap();
    assert!(
        ours.len() == 2 && ours.iter().all(|entry| entry.tenant_id == Some(tenant)),
        "{ours:?}"
    );
    let dead = HistoryFilter { outcome: Some(Ended::Dead), ..any.clone() };
    assert_eq!(of(history(&world, &dead).await), [(Ended::Dead, Some(tenant))]);
    assert!(
        world.jobs.history_within(TenantScope::of_job(other), &dead, 100).await.unwrap().is_empty()
    );
    let of_other = HistoryFilter { tenant: Some(other), ..any.clone() };
    assert_eq!(of(history(&world, &of_other).await), [(Ended::Success, Some(other))]);
    // A filter for another tenant does not widen the scope and matches nothing.
    assert!(
        world
            .jobs
            .history_within(TenantScope::of_job(tenant), &of_other, 100)
            .await
            .unwrap()
            .is_empty()
    );
    let elsewhere = HistoryFilter { queue: Some(MAINTENANCE), ..any.clone() };
    let unknown = HistoryFilter { kind: Some("test.other".to_owned()), ..any.clone() };
    for filter in [elsewhere, unknown] {
        assert!(history(&world, &filter).await.is_empty());
    }
    let all = history(&world, &any).await;
    assert!(all.is_sorted_by(|newer, older| newer.finished_at >= older.finished_at));
    let before = HistoryFilter { before: Some(all[0].finished_at), ..any };
    assert!(
        history(&world, &before).await.iter().all(|entry| entry.finished_at < all[0].finished_at)
    );
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_lose_no_entries_of_the_same_millisecond() {
    let (world, ward) = (World::with(KEPT).await, Arc::new(Ward::default()));
    let tenant: TenantId = world.store.clock().id();
    for _ in 0..5 {
        world.jobs.commit(&Origin::system(), &Stage { n: 0, tenant: Some(tenant) }).await.unwrap();
    }
    let worker = work(&world, &ward);
    until("all have ended", || async {
        history(&world, &HistoryFilter::default()).await.len() == 5
    })
    .await;
    worker.stop(Duration::from_secs(5)).await;
    let all = history(&world, &HistoryFilter::default()).await;
    // The oldest ended before the others, which ended together.
    let (oldest, rows) = (all[4].id, || world.store.records::<HistoryEntry>(PlatformScope));
    rows()
        .update_all(
            doc! { "_id": { "$ne": oldest } },
            doc! { "$set": { "finished_at": DateTime::from_millis(2_000) } },
        )
        .await
        .unwrap();
    rows()
        .update_all(
            doc! { "_id": oldest },
            doc! { "$set": { "finished_at": DateTime::from_millis(1_000) } },
        )
        .await
        .unwrap();

    let whole: Vec<JobId> =
        history(&world, &HistoryFilter::default()).await.iter().map(|entry| entry.id).collect();
    let (mut paged, mut filter) = (Vec::new(), HistoryFilter::default());
    loop {
        let page =
            world.jobs.history_within(TenantScope::of_job(tenant), &filter, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.after = Some(last.cursor());
        paged.extend(page.iter().map(|entry| entry.id));
    }
    assert!(paged.len() == 5 && paged == whole && paged[4] == oldest, "{paged:?} {whole:?}");
    // Both bounds apply.
    let both = HistoryFilter { before: Some(DateTime::from_millis(2_000)), ..filter.clone() };
    assert!(history(&world, &both).await.is_empty());
    let both = HistoryFilter {
        after: Some(history(&world, &HistoryFilter::default()).await[0].cursor()),
        ..both
    };
    assert_eq!(
        history(&world, &both).await.iter().map(|entry| entry.id).collect::<Vec<_>>(),
        [oldest]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_by_default_or_shown_after_it_expired() {
    let rows = async |world: &World| {
        world.store.records::<HistoryEntry>(PlatformScope).count(doc! {}).await.unwrap()
    };
    let run_one = async |settings| {
        let world = World::with(settings).await;
        let worker = work(&world, &Arc::new(Ward::default()));
        world.stage(0).await;
        world.until_idle().await;
        worker.stop(Duration::from_secs(5)).await;
        world
    };
    assert_eq!(rows(&run_one(&[]).await).await, 0);
    let short = run_one(&[("JOBS__HISTORY_TTL", "1ms")]).await;
    assert_eq!(
        (rows(&short).await, history(&short, &HistoryFilter::default()).await.len()),
        (1, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_history_entries_do_not_block_jobs() {
    let (world, ward) = (World::with(KEPT).await, Arc::new(Ward::default()));
    let client =
        mongodb::Client::with_uri_str(world.config.mongodb.uri.expose_secret()).await.unwrap();
    let refuse = doc! { "collMod": "job_history", "validator": { "never": true }, "validationLevel": "strict" };
    client.database(&world.config.mongodb.database).run_command(refuse).await.unwrap();
    let worker = work(&world, &ward);
    let begun = std::time::Instant::now();
    world.stage(0).await;
    world.until_idle().await;
    // Immediately, without waiting as for an outage.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(history(&world, &HistoryFilter::default()).await.is_empty());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_store_delays_unstaged_jobs_for_a_bounded_time() {
    let (world, ward) = (World::private_with(KEPT).await, Arc::new(Ward::default()));
    let settled = || async {
        let stats = world.jobs.broker().stats(EMAIL).await.unwrap();
        (stats.ready, stats.running) == (0, 0)
    };
    // A worker that has checked once whether its queue is paused.
    let worker = work(&world, &ward);
    world.jobs.enqueue_unstaged(None, &Probe { n: 0 }).await.unwrap();
    until("the worker runs jobs", settled).await;
    world.env.mongod().kill().await;
    world.jobs.enqueue_unstaged(None, &Probe { n: 1 }).await.unwrap();
    until("it is settled", settled).await;
    worker.stop(Duration::from_secs(5)).await;
}
