//! Priorities between queues: the seats that all queues of a process share. When none is free, the
//! next one goes to the most urgent queue that waits. A job under suspicion can have the process to
//! itself.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, RwLock, Semaphore, oneshot};

/// The jobs that one process runs at once, over all its queues. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Seats {
    room: Arc<Mutex<Room>>,
    /// Read by every job that runs; written by one that runs alone. Whoever waits to write holds up new
    /// readers, so that the room empties.
    company: Arc<RwLock<()>>,
    suspects: Arc<Semaphore>,
}

#[derive(Debug)]
struct Room {
    free: usize,
    /// By urgency, then by who came first.
    waiting: BTreeMap<(Reverse<u8>, u64), oneshot::Sender<Chair>>,
    arrivals: u64,
}

/// One job's seat; given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    chair: Chair,
    /// Held for as long as the job runs.
    company: Company,
}

/// A seat's part in the count.
#[derive(Debug)]
struct Chair {
    seats: Seats,
}

/// Who else may run meanwhile.
#[derive(Debug)]
enum Company {
    Others(#[expect(dead_code, reason = "held")] OwnedRwLockReadGuard<()>),
    /// Ended by being dropped.
    Nobody(#[expect(dead_code, reason = "held")] oneshot::Sender<Infallible>),
}

impl Seats {
    /// Seats for `count` jobs at once.
    pub fn new(count: usize) -> Self {
        let room = Room { free: count, waiting: BTreeMap::new(), arrivals: 0 };
        Self { room: Arc::new(Mutex::new(room)), company: Arc::default(), suspects: Arc::new(Semaphore::new(1)) }
    }

    fn locked(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seats that can be had at once.
    pub(crate) fn free(&self) -> usize {
        if self.company.try_read().is_ok() { self.locked().free } else { 0 }
    }

    /// The right to run a job that ended its process before; only one of them runs at a time in a
    /// process, whatever its queue.
    pub(crate) fn suspect(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.suspects).try_acquire_owned().ok()
    }

    /// A seat, once it is this queue's turn and nobody runs alone.
    pub(crate) async fn take(&self, priority: u8) -> Seat {
        // The seat first: whoever waits to be alone has one, and would wait for those who wait for it.
        let chair = self.chair(priority).await;
        let company = Company::Others(Arc::clone(&self.company).read_owned().await);
        Seat { chair, company }
    }

    async fn chair(&self, priority: u8) -> Chair {
        loop {
            let waiting = {
                let mut room = self.locked();
                if let Some(free) = room.free.checked_sub(1) {
                    room.free = free;
                    drop(room);
                    return Chair { seats: self.clone() };
                }
                let (given, waiting) = oneshot::channel();
                room.arrivals += 1;
                let arrival = room.arrivals;
                room.waiting.insert((Reverse(priority), arrival), given);
                waiting
            };
            if let Ok(chair) = waiting.await {
                return chair;
            }
        }
    }
}

impl Seat {
    /// The same seat with nobody in any other, for `most` at most. What runs is waited for, also for
    /// `most`: jobs may take hours, and nobody is to wait that long for one that only may be guilty.
    pub(crate) async fn alone(self, most: Duration) -> Self {
        let Self { chair, company } = self;
        drop(company);
        let all = &chair.seats.company;
        let company = match tokio::time::timeout(most, Arc::clone(all).write_owned()).await {
            Ok(nobody) => Company::Nobody(shut_out(nobody, most)),
            Err(_) => Company::Others(Arc::clone(all).read_owned().await),
        };
        Self { chair, company }
    }
}

/// Lets nobody in until what is answered is dropped, or for `most`.
fn shut_out(nobody: OwnedRwLockWriteGuard<()>, most: Duration) -> oneshot::Sender<Infallible> {
    let (held, mut dropped) = oneshot::channel::<Infallible>();
    tokio::spawn(async move {
        if tokio::time::timeout(most, &mut dropped).await.is_err() {
            let _others = nobody.downgrade();
            let _ = dropped.await;
        }
    });
    held
}

impl Drop for Chair {
    fn drop(&mut self) {
        let next = {
            let mut room = self.seats.locked();
            let next = room.waiting.pop_first();
            if next.is_none() {
                room.free += 1;
            }
            next
        };
        if let Some((_, waiting)) = next {
            // Whoever stopped waiting lets the seat fall, which passes it on.
            drop(waiting.send(Self { seats: self.seats.clone() }));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_most_urgent_gets_the_next_seat_and_then_who_came_first() {
        let seats = Seats::new(1);
        let taken = seats.take(0).now_or_never().unwrap();
        assert!(seats.take(0).now_or_never().is_none());
        let mut low = std::pin::pin!(seats.take(1));
        let mut high = std::pin::pin!(seats.take(2));
        let mut later = std::pin::pin!(seats.take(2));
        assert!(low.as_mut().now_or_never().is_none());
        assert!(high.as_mut().now_or_never().is_none());
        assert!(later.as_mut().now_or_never().is_none());
        drop(taken);
        assert!(low.as_mut().now_or_never().is_none());
        let seat = high.now_or_never().unwrap();
        drop(seat);
        let seat = later.now_or_never().unwrap();
        drop(seat);
        assert!(low.now_or_never().is_some());
        assert!(seats.take(0).now_or_never().is_some());
    }

    #[tokio::test]
    async fn one_that_is_alone_waits_for_the_others_and_holds_up_new_ones() {
        let seats = Seats::new(3);
        let other = seats.take(0).await;
        let mut alone = std::pin::pin!(seats.take(0).await.alone(Duration::from_hours(1)));
        assert!(alone.as_mut().now_or_never().is_none());
        let mut fresh = std::pin::pin!(seats.take(9));
        assert!(fresh.as_mut().now_or_never().is_none());
        drop(other);
        let alone = alone.await;
        assert!(fresh.as_mut().now_or_never().is_none());
        drop(alone);
        drop(fresh.await);
        assert_eq!(seats.free(), 3);
    }

    #[tokio::test]
    async fn one_that_is_alone_holds_nobody_up_for_ever() {
        const MOST: Duration = Duration::from_millis(10);
        let seats = Seats::new(3);
        let endless = seats.take(0).await;
        let beside = seats.take(0).await.alone(MOST).await;
        drop((endless, seats.take(0).await));
        drop(beside);
        let endless = seats.take(0).await.alone(MOST).await;
        let beside = seats.take(0).await;
        drop((endless, beside));
        assert_eq!(seats.free(), 3);
    }

    #[test]
    fn a_seat_given_to_nobody_is_passed_on() {
        let seats = Seats::new(1);
        let taken = seats.take(0).now_or_never().unwrap();
        {
            let mut gone = std::pin::pin!(seats.take(9));
            assert!(gone.as_mut().now_or_never().is_none());
        }
        let mut waiting = std::pin::pin!(seats.take(1));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(taken);
        assert!(waiting.now_or_never().is_some());
    }
}
