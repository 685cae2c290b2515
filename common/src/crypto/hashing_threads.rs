//! Dedicated threads that hash passwords.
//!
//! The threads read from one queue: a thread that finishes a hash starts the next at once, without
//! waking a task or another thread. Each thread keeps its working memory from one hash to the next,
//! because memory freed while work moves between threads stays in their allocators' arenas and adds
//! up to hundreds of megabytes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

use argon2::Block;
use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::{sync::oneshot, time::timeout};
use tracing::Instrument;

use super::password::HashError;
use crate::telemetry::{
    metrics::{self, Counted, Resource},
    trace::Call,
};

/// The working memory of a thread, allocated when it is first needed.
#[derive(Default)]
pub(super) struct Workspace(Vec<Block>);

impl Workspace {
    /// Lends `blocks` blocks of 1 KiB to `work`. Up to `kept` blocks stay allocated for the next
    /// hash.
    pub(super) fn with<T>(
        &mut self,
        blocks: usize,
        kept: usize,
        work: impl FnOnce(&mut [Block]) -> T,
    ) -> T {
        if blocks > kept {
            return work(&mut vec![Block::new(); blocks]);
        }
        self.0.resize(kept, Block::new());
        work(&mut self.0)
    }
}

type Work = Box<dyn FnOnce(&mut Workspace) + Send>;

/// A fixed number of threads and their queue. The threads end when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct HashingThreads {
    queue: Sender<Work>,
}

impl HashingThreads {
    /// Starts `count` threads.
    pub(super) fn start(count: usize) -> Result<Self, HashError> {
        Resource::Hashing.limit_to(count);
        let (queue, waiting) = unbounded();
        for _ in 0..count {
            let waiting = waiting.clone();
            thread::Builder::new()
                .name("hashing".to_owned())
                .spawn(move || take_turns(&waiting))?;
        }
        Ok(Self { queue })
    }

    /// Runs `work` on a free thread; fails if none becomes free within `wait_max`. Work that has
    /// started is finished even if the caller has gone; work that timed out never starts.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        wait_max: Duration,
        work: impl FnOnce(&mut Workspace) -> Result<T, HashError> + Send + 'static,
    ) -> Result<T, HashError> {
        self.take_turn(wait_max, work).instrument(Call::Hash.span()).await
    }

    async fn take_turn<T: Send + 'static>(
        &self,
        wait_max: Duration,
        work: impl FnOnce(&mut Workspace) -> Result<T, HashError> + Send + 'static,
    ) -> Result<T, HashError> {
        let (turn, turn_came) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let work = move |workspace: &mut Workspace| {
            if turn.send(()).is_ok() {
                let _hashing = Counted::one(Resource::Hashing.used());
                let timer = metrics::PASSWORD_HASH_DURATION.start_timer();
                let done = work(workspace);
                timer.observe_duration();
                // The caller may have gone.
                let _ = answer.send(done);
            }
        };
        let waiting = Counted::one(metrics::PASSWORD_HASH_WAITING.clone());
        self.queue.send(Box::new(work)).map_err(|_| HashError::Interrupted)?;
        let Ok(came) = timeout(wait_max, turn_came).await else {
            metrics::PASSWORD_HASH_SHED.inc();
            return Err(HashError::Overloaded);
        };
        drop(waiting);
        came.map_err(|_| HashError::Interrupted)?;
        answered.await.map_err(|_| HashError::Interrupted)?
    }
}

fn take_turns(waiting: &Receiver<Work>) {
    let mut workspace = Workspace::default();
    while let Ok(work) = waiting.recv() {
        // A panic affects one hash only: its caller receives no answer, and the thread goes on.
        if catch_unwind(AssertUnwindSafe(|| work(&mut workspace))).is_err() {
            workspace = Workspace::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn address(workspace: &mut Workspace) -> usize {
        workspace.with(16, 16, |blocks| blocks.as_ptr() as usize)
    }

    #[tokio::test]
    async fn work_that_waits_too_long_is_shed_and_never_starts() {
        let threads = HashingThreads::start(1).unwrap();
        let (holding, is_released) = mpsc::channel::<()>();
        let (entered, inside) = oneshot::channel();
        let holder = {
            let threads = threads.clone();
            let hold_the_thread = move |_: &mut Workspace| {
                let _ = entered.send(());
                let _ = is_released.recv();
                Ok(())
            };
            tokio::spawn(async move { threads.run(LONG, hold_the_thread).await })
        };
        inside.await.unwrap();
        let (does, done) = mpsc::channel();
        let shed = threads
            .run(Duration::from_millis(1), move |_| {
                does.send(()).map_err(|_| HashError::Interrupted)
            })
            .await;
        assert!(matches!(shed, Err(HashError::Overloaded)), "{shed:?}");
        drop(holding);
        holder.await.unwrap().unwrap();
        threads.run(LONG, |_| Ok(())).await.unwrap();
        assert!(done.recv().is_err(), "work that timed out did not start");
    }

    #[tokio::test]
    async fn a_thread_keeps_its_memory_but_not_larger_allocations() {
        let threads = HashingThreads::start(1).unwrap();
        let first = threads.run(LONG, |workspace| Ok(address(workspace))).await.unwrap();
        let larger = threads
            .run(LONG, |workspace| Ok(workspace.with(32, 16, |blocks| blocks.len())))
            .await
            .unwrap();
        assert_eq!(
            (larger, threads.run(LONG, |workspace| Ok(address(workspace))).await.unwrap()),
            (32, first)
        );
    }

    #[tokio::test]
    async fn a_panic_ends_one_hash_and_not_its_thread() {
        let threads = HashingThreads::start(1).unwrap();
        let panicked: Result<(), HashError> = threads.run(LONG, |_| panic!("of a test")).await;
        assert!(matches!(panicked, Err(HashError::Interrupted)), "{panicked:?}");
        threads.run(LONG, |workspace| Ok(address(workspace))).await.unwrap();
    }

    #[tokio::test]
    async fn the_threads_end_with_the_last_handle() {
        thread_local! {
            static ALIVE: std::cell::RefCell<Option<mpsc::Sender<()>>> = const { std::cell::RefCell::new(None) };
        }
        let threads = HashingThreads::start(1).unwrap();
        let (alive, ended) = mpsc::channel();
        let mark = move |_: &mut Workspace| {
            ALIVE.set(Some(alive));
            Ok(())
        };
        threads.run(LONG, mark).await.unwrap();
        drop(threads);
        assert_eq!(ended.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
