//! The threads that passwords are hashed on.
//!
//! They take what waits straight from a queue: a thread that is done goes on with the next at once,
//! where a runtime would have to wake a task and that another thread. The memory that a hash works
//! in is its thread's and kept from one hash to the next, because what is freed on changing threads
//! stays with their allocators' arenas and adds up to hundreds of megabytes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

use argon2::Block;
use crossbeam_channel::{Receiver, Sender, unbounded};
use prometheus::IntGauge;
use tokio::{sync::oneshot, time::timeout};

use super::password::HashError;
use crate::telemetry::metrics;

/// What a thread hashes in, made when it is first needed.
#[derive(Default)]
pub(super) struct Workspace(Vec<Block>);

impl Workspace {
    /// So many blocks of a KiB, of what is kept up to `kept` of them.
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

/// So many threads and what waits for them. The threads end with the last clone of this.
#[derive(Clone, Debug)]
pub(super) struct HashingThreads {
    queue: Sender<Work>,
}

impl HashingThreads {
    /// Starts `count` of them.
    pub(super) fn start(count: usize) -> Result<Self, HashError> {
        let (queue, waiting) = unbounded();
        for _ in 0..count {
            let waiting = waiting.clone();
            thread::Builder::new()
                .name("hashing".to_owned())
                .spawn(move || take_turns(&waiting))?;
        }
        Ok(Self { queue })
    }

    /// Does `work` when its turn comes, which is to be within `wait_max`. Work whose turn came is
    /// done even if nobody waits for it any more; what was given up before is not.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        wait_max: Duration,
        work: impl FnOnce(&mut Workspace) -> Result<T, HashError> + Send + 'static,
    ) -> Result<T, HashError> {
        let (turn, turn_came) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let work = move |workspace: &mut Workspace| {
            if turn.send(()).is_ok() {
                let timer = metrics::PASSWORD_HASH_DURATION.start_timer();
                let done = work(workspace);
                timer.observe_duration();
                // Whoever asked may have hung up.
                let _ = answer.send(done);
            }
        };
        let waiting = Counted::new(metrics::PASSWORD_HASH_WAITING.clone());
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
        // A panic is one hash's, whose asker sees that no answer comes; the next is another's.
        if catch_unwind(AssertUnwindSafe(|| work(&mut workspace))).is_err() {
            workspace = Workspace::default();
        }
    }
}

/// Counted for as long as it is there.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
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
    async fn what_does_not_get_its_turn_in_time_is_shed_and_never_done() {
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
        assert!(done.recv().is_err(), "what was given up was not done");
    }

    #[tokio::test]
    async fn a_thread_keeps_its_memory_and_what_is_larger_is_not_kept() {
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
    async fn the_threads_end_with_what_they_belong_to() {
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
