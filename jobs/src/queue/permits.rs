//! Priorities between queues: the permits that all queues of a process share. While none is free,
//! the next one goes to the waiting queue with the highest priority. A suspected job can run
//! exclusively, with no other job in the process.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::Instant,
};

/// The longest that a suspect waits to run exclusively, and the longest that it does. Jobs may take
/// hours, and no other job should wait that long for one that is only suspected.
const EXCLUSIVE_MAX: Duration = Duration::from_secs(5);
/// After a suspect had to run beside other jobs, no suspect holds up other jobs for this long.
const EXCLUSIVE_PAUSE: Duration = Duration::from_secs(30);

/// Abandoned requests are removed when this many are in line.
const ABANDONED_MAX: usize = 64;

/// The jobs that one process may run at once, over all its queues. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Permits {
    pool: Arc<Mutex<Pool>>,
    admission: watch::Sender<Admission>,
    suspects: Arc<Semaphore>,
    exclusive_max: Duration,
}

#[derive(Debug)]
struct Pool {
    free: usize,
    /// By priority, then by order of arrival.
    line: BTreeMap<(Reverse<u8>, u64), oneshot::Sender<Share>>,
    arrivals: u64,
}

/// How many jobs run, and which jobs may start.
#[derive(Debug)]
struct Admission {
    running: usize,
    mode: Mode,
    /// Counts the suspects that asked to run exclusively.
    suspects: u64,
    /// When a suspect last had to run beside other jobs.
    shared_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Any job may start.
    Open,
    /// A suspect waits until no other job runs. Only jobs that were taken over may start, since
    /// they have waited for a lease already.
    Clearing,
    /// A suspect runs exclusively.
    Exclusive,
}

/// Where a job that needs a permit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Read from the queue.
    Fetched,
    /// Taken over from a worker that stopped renewing its leases.
    TakenOver,
}

/// A place in the line for a permit, given up when dropped.
#[derive(Debug)]
pub(crate) struct Request {
    permits: Permits,
    priority: u8,
    state: RequestState,
}

#[derive(Debug)]
enum RequestState {
    Granted(Share),
    InLine(oneshot::Receiver<Share>),
}

/// The right of one job to run, returned when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    // Dropped first, so that the job no longer counts as running when the share is passed on.
    admitted: Admitted,
    _share: Share,
}

/// A job that counts as running.
#[derive(Debug)]
struct Admitted {
    permits: Permits,
    /// The number of the suspect that runs exclusively, if this is one.
    exclusive: Option<u64>,
}

/// One of the pool's permits. Passed on to the next in line when dropped.
#[derive(Debug)]
struct Share {
    permits: Option<Permits>,
}

impl Mode {
    const fn admits(self, source: Source) -> bool {
        match self {
            Self::Open => true,
            Self::Clearing => matches!(source, Source::TakenOver),
            Self::Exclusive => false,
        }
    }
}

impl Permits {
    /// Permits for `count` jobs at once.
    pub fn new(count: usize) -> Self {
        Self::with_exclusive_max(count, EXCLUSIVE_MAX)
    }

    fn with_exclusive_max(count: usize, exclusive_max: Duration) -> Self {
        let pool = Pool { free: count, line: BTreeMap::new(), arrivals: 0 };
        let admission = Admission { running: 0, mode: Mode::Open, suspects: 0, shared_at: None };
        Self {
            pool: Arc::new(Mutex::new(pool)),
            admission: watch::Sender::new(admission),
            suspects: Arc::new(Semaphore::new(1)),
            exclusive_max,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many fetched jobs could start now.
    pub(crate) fn free(&self) -> usize {
        if self.admission.borrow().mode == Mode::Open { self.locked().free } else { 0 }
    }

    /// How many requests are in line.
    pub fn in_line(&self) -> usize {
        self.locked().line.values().filter(|request| !request.is_closed()).count()
    }

    /// The right to run a job that crashed its process before. Only one such job runs at a time in
    /// a process, across all queues.
    pub(crate) fn suspect(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.suspects).try_acquire_owned().ok()
    }

    /// Takes a free permit or a place in line.
    pub(crate) fn request(&self, priority: u8) -> Request {
        Request { permits: self.clone(), priority, state: self.join_line(priority) }
    }

    fn join_line(&self, priority: u8) -> RequestState {
        let mut pool = self.locked();
        if let Some(free) = pool.free.checked_sub(1) {
            pool.free = free;
            drop(pool);
            return RequestState::Granted(Share { permits: Some(self.clone()) });
        }
        let (grant, granted) = oneshot::channel();
        if pool.line.len() >= ABANDONED_MAX {
            pool.line.retain(|_, request| !request.is_closed());
        }
        pool.arrivals += 1;
        let arrival = pool.arrivals;
        pool.line.insert((Reverse(priority), arrival), grant);
        RequestState::InLine(granted)
    }

    /// Waits until the mode admits a job from `source`, and counts it as running.
    async fn admit(&self, source: Source) {
        let mut admission = self.admission.subscribe();
        loop {
            let mut is_admitted = false;
            // No task waits for a larger number of running jobs, so none is notified.
            self.admission.send_if_modified(|admission| {
                is_admitted = admission.mode.admits(source);
                admission.running += usize::from(is_admitted);
                false
            });
            if is_admitted {
                return;
            }
            // The sender is ours, so this cannot fail.
            let _ = admission.wait_for(|admission| admission.mode.admits(source)).await;
        }
    }

    /// Admits all jobs again, if `suspect` is still the one that they wait for.
    fn reopen(&self, suspect: u64) {
        self.admission.send_if_modified(|admission| admission.reopen(suspect));
    }

    /// Passes a share to the next request in line, or returns it to the pool.
    fn pass_on(self) {
        let mut share = Share { permits: Some(self.clone()) };
        loop {
            let next = {
                let mut pool = self.locked();
                let next = pool.line.pop_first();
                pool.free += usize::from(next.is_none());
                next
            };
            let Some((_, grant)) = next else { break };
            match grant.send(share) {
                Ok(()) => return,
                Err(refused) => share = refused,
            }
        }
        // The pool has counted it already.
        share.permits = None;
    }
}

impl Request {
    /// The permit, once it is this request's turn and no suspect runs exclusively.
    pub(crate) async fn granted(self, source: Source) -> Permit {
        let Self { permits, priority, mut state } = self;
        // The share comes before admission. A suspect holds a share while it waits to run
        // exclusively, so an admitted job that waited for that share would wait forever.
        let share = loop {
            match state {
                RequestState::Granted(share) => break share,
                RequestState::InLine(granted) => {
                    state = match granted.await {
                        Ok(share) => RequestState::Granted(share),
                        Err(_) => permits.join_line(priority),
                    };
                }
            }
        };
        permits.admit(source).await;
        Permit { admitted: Admitted { permits, exclusive: None }, _share: share }
    }
}

impl Admission {
    fn reopen(&mut self, suspect: u64) -> bool {
        let is_closed = self.mode != Mode::Open && self.suspects == suspect;
        if is_closed {
            self.mode = Mode::Open;
        }
        is_closed
    }

    /// The number of the suspect, if other jobs should wait for it. None soon after a suspect had
    /// to run beside others, so that a process with long jobs is not blocked repeatedly.
    fn clear_for_suspect(&mut self) -> Option<u64> {
        if self.shared_at.is_some_and(|at| at.elapsed() < EXCLUSIVE_PAUSE) {
            return None;
        }
        self.mode = Mode::Clearing;
        self.suspects += 1;
        Some(self.suspects)
    }
}

impl Permit {
    /// The same permit while no other job runs, if that comes within [`EXCLUSIVE_MAX`]. It stays
    /// exclusive for that long at most.
    pub(crate) async fn exclusive(mut self) -> Self {
        let permits = self.admitted.permits.clone();
        let mut suspect = None;
        // Tasks that wait for admission are notified when the mode opens again.
        permits.admission.send_if_modified(|admission| {
            suspect = admission.clear_for_suspect();
            false
        });
        let Some(suspect) = suspect else { return self };
        let mut clearing = Clearing { permits: &permits, suspect, is_done: false };
        if tokio::time::timeout(permits.exclusive_max, clearing.finish()).await.is_ok() {
            self.admitted.exclusive = Some(suspect);
            let permits = permits.clone();
            tokio::spawn(async move {
                tokio::time::sleep(permits.exclusive_max).await;
                permits.reopen(suspect);
            });
        } else {
            permits.admission.send_if_modified(|admission| {
                admission.shared_at = Some(Instant::now());
                false
            });
        }
        self
    }
}

/// A suspect's wait for the other jobs to end. Admits jobs again when dropped unfinished.
struct Clearing<'a> {
    permits: &'a Permits,
    suspect: u64,
    is_done: bool,
}

impl Clearing<'_> {
    /// Switches to the exclusive mode as soon as only the suspect runs.
    async fn finish(&mut self) {
        let mut admission = self.permits.admission.subscribe();
        while !self.is_done {
            // The sender is ours, so this cannot fail.
            let _ = admission.wait_for(|admission| admission.running == 1).await;
            self.permits.admission.send_if_modified(|admission| {
                self.is_done = admission.running == 1;
                if self.is_done {
                    admission.mode = Mode::Exclusive;
                }
                false
            });
        }
    }
}

impl Drop for Clearing<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.permits.reopen(self.suspect);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.permits.admission.send_if_modified(|admission| {
            admission.running -= 1;
            let reopened = self.exclusive.is_some_and(|suspect| admission.reopen(suspect));
            reopened || (admission.running == 1 && admission.mode == Mode::Clearing)
        });
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(permits) = self.permits.take() {
            permits.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const FETCHED: Source = Source::Fetched;

    async fn take(permits: &Permits, priority: u8, source: Source) -> Permit {
        permits.request(priority).granted(source).await
    }

    #[test]
    fn the_highest_priority_gets_the_next_permit_and_then_the_first_to_arrive() {
        let permits = Permits::new(1);
        let taken = take(&permits, 0, FETCHED).now_or_never().unwrap();
        assert!(take(&permits, 0, FETCHED).now_or_never().is_none());
        let mut low = std::pin::pin!(take(&permits, 1, FETCHED));
        let mut high = std::pin::pin!(take(&permits, 2, FETCHED));
        let mut later = std::pin::pin!(take(&permits, 2, FETCHED));
        assert!(low.as_mut().now_or_never().is_none());
        assert!(high.as_mut().now_or_never().is_none());
        assert!(later.as_mut().now_or_never().is_none());
        drop(taken);
        assert!(low.as_mut().now_or_never().is_none());
        let permit = high.now_or_never().unwrap();
        drop(permit);
        let permit = later.now_or_never().unwrap();
        drop(permit);
        assert!(low.now_or_never().is_some());
        assert!(take(&permits, 0, FETCHED).now_or_never().is_some());
    }

    #[tokio::test]
    async fn an_exclusive_job_waits_for_running_ones_and_holds_up_new_ones() {
        let permits = Permits::new(3);
        let other = take(&permits, 0, FETCHED).await;
        let mut exclusive = std::pin::pin!(take(&permits, 0, FETCHED).await.exclusive());
        assert!(exclusive.as_mut().now_or_never().is_none());
        let mut fresh = std::pin::pin!(take(&permits, 9, FETCHED));
        assert!(fresh.as_mut().now_or_never().is_none());
        assert_eq!(permits.free(), 0);
        drop(other);
        let exclusive = exclusive.await;
        assert!(fresh.as_mut().now_or_never().is_none());
        drop(exclusive);
        drop(fresh.await);
        assert_eq!(permits.free(), 3);
    }

    #[tokio::test]
    async fn jobs_that_were_taken_over_start_until_the_suspect_is_exclusive() {
        let permits = Permits::new(3);
        let other = take(&permits, 0, FETCHED).await;
        let mut exclusive = std::pin::pin!(take(&permits, 0, FETCHED).await.exclusive());
        assert!(exclusive.as_mut().now_or_never().is_none());
        let taken_over = take(&permits, 0, Source::TakenOver).now_or_never().unwrap();
        drop(other);
        assert!(exclusive.as_mut().now_or_never().is_none(), "another job runs");
        drop(taken_over);
        let exclusive = exclusive.await;
        assert!(take(&permits, 0, Source::TakenOver).now_or_never().is_none());
        drop(exclusive);
        assert_eq!(permits.free(), 3);
    }

    #[tokio::test]
    async fn a_suspect_that_stops_waiting_admits_other_jobs() {
        let permits = Permits::new(3);
        let other = take(&permits, 0, FETCHED).await;
        {
            let mut exclusive = std::pin::pin!(take(&permits, 0, FETCHED).await.exclusive());
            assert!(exclusive.as_mut().now_or_never().is_none());
        }
        drop((other, take(&permits, 0, FETCHED).now_or_never().unwrap()));
        assert_eq!(permits.free(), 3);
    }

    #[tokio::test]
    async fn an_exclusive_job_does_not_hold_up_others_forever() {
        let permits = Permits::with_exclusive_max(3, Duration::from_millis(10));
        let endless = take(&permits, 0, FETCHED).await.exclusive().await;
        let beside = take(&permits, 0, FETCHED).await;
        drop((endless, beside));
        assert_eq!(permits.free(), 3);
    }

    #[tokio::test]
    async fn a_process_with_long_jobs_is_not_blocked_repeatedly() {
        let permits = Permits::with_exclusive_max(4, Duration::from_millis(10));
        let long = take(&permits, 0, FETCHED).await;
        drop(take(&permits, 0, FETCHED).await.exclusive().await);
        let second = take(&permits, 0, FETCHED)
            .await
            .exclusive()
            .now_or_never()
            .expect("it runs beside others at once");
        drop((long, second));
        assert_eq!(permits.free(), 4);
    }

    #[test]
    fn abandoned_requests_are_removed() {
        let permits = Permits::new(1);
        let taken = take(&permits, 0, FETCHED).now_or_never().unwrap();
        for _ in 0..20_000 {
            assert!(take(&permits, 9, FETCHED).now_or_never().is_none());
        }
        assert!(permits.locked().line.len() <= ABANDONED_MAX);
        drop(taken);
        assert_eq!(permits.free(), 1);
    }

    #[test]
    fn a_permit_for_an_abandoned_request_is_passed_on() {
        let permits = Permits::new(1);
        let taken = take(&permits, 0, FETCHED).now_or_never().unwrap();
        {
            let mut gone = std::pin::pin!(take(&permits, 9, FETCHED));
            assert!(gone.as_mut().now_or_never().is_none());
        }
        let mut waiting = std::pin::pin!(take(&permits, 1, FETCHED));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(taken);
        assert!(waiting.now_or_never().is_some());
    }
}
