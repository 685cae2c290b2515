//! Priorities between queues: the seats that all queues of a process share. When none is free, the
//! next one goes to the most urgent queue that waits. A job under suspicion can have the process to
//! itself.

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

/// The longest that a suspect waits to be alone, and is: jobs may take hours, and nobody is to wait
/// that long for one that only may be guilty.
const ALONE_MAX: Duration = Duration::from_secs(5);
/// After one that had to bear company newcomers are not held up for another for this long.
const ALONE_PAUSE: Duration = Duration::from_secs(30);

/// Those that stopped waiting are forgotten when so many wait.
const LEFT_MAX: usize = 64;

/// The jobs that one process runs at once, over all its queues. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Seats {
    room: Arc<Mutex<Room>>,
    company: watch::Sender<Company>,
    suspects: Arc<Semaphore>,
    alone_max: Duration,
}

#[derive(Debug)]
struct Room {
    free: usize,
    /// By urgency, then by who came first.
    waiting: BTreeMap<(Reverse<u8>, u64), oneshot::Sender<Chair>>,
    arrivals: u64,
}

/// Who is in the room, and who may come.
#[derive(Debug)]
struct Company {
    inside: usize,
    door: Door,
    /// Counts the suspects that wanted to be alone.
    suspects: u64,
    /// When one of them had to bear company last.
    borne_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// A suspect waits until everybody has left: only what was taken over from others comes in,
    /// which has waited long enough.
    Emptying,
    /// A suspect is alone.
    Shut,
}

/// What a job that wants a seat is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    /// One that was fetched.
    Fetched,
    /// One whose worker fell silent.
    TakenOver,
}

/// One job's seat; given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    // Given back after the room is left.
    presence: Presence,
    _chair: Chair,
}

/// Being in the room.
#[derive(Debug)]
struct Presence {
    seats: Seats,
    /// Which suspect it is that is alone, if it is one.
    alone: Option<u64>,
}

/// A seat's part in the count.
#[derive(Debug)]
struct Chair {
    seats: Option<Seats>,
}

impl Door {
    const fn admits(self, guest: Guest) -> bool {
        match self {
            Self::Open => true,
            Self::Emptying => matches!(guest, Guest::TakenOver),
            Self::Shut => false,
        }
    }
}

impl Seats {
    /// Seats for `count` jobs at once.
    pub fn new(count: usize) -> Self {
        Self::with_patience(count, ALONE_MAX)
    }

    fn with_patience(count: usize, alone_max: Duration) -> Self {
        let room = Room { free: count, waiting: BTreeMap::new(), arrivals: 0 };
        let company = Company { inside: 0, door: Door::Open, suspects: 0, borne_at: None };
        Self {
            room: Arc::new(Mutex::new(room)),
            company: watch::Sender::new(company),
            suspects: Arc::new(Semaphore::new(1)),
            alone_max,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seats that a fetched job can have at once.
    pub(crate) fn free(&self) -> usize {
        if self.company.borrow().door == Door::Open { self.locked().free } else { 0 }
    }

    /// The right to run a job that ended its process before; only one of them runs at a time in a
    /// process, whatever its queue.
    pub(crate) fn suspect(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.suspects).try_acquire_owned().ok()
    }

    /// A seat, once it is this queue's turn and nobody is alone.
    pub(crate) async fn take(&self, priority: u8, guest: Guest) -> Seat {
        // The seat first: whoever waits to be alone has one, and would wait for those who wait for
        // it.
        let chair = self.chair(priority).await;
        self.enter(guest).await;
        Seat { presence: Presence { seats: self.clone(), alone: None }, _chair: chair }
    }

    /// Comes in as soon as the door admits it.
    async fn enter(&self, guest: Guest) {
        let mut company = self.company.subscribe();
        loop {
            let mut is_inside = false;
            // Nobody waits for the room to fill.
            self.company.send_if_modified(|company| {
                is_inside = company.door.admits(guest);
                company.inside += usize::from(is_inside);
                false
            });
            if is_inside {
                return;
            }
            // The sender is ours.
            let _ = company.wait_for(|company| company.door.admits(guest)).await;
        }
    }

    /// Lets everybody in again, if `suspect` is still the one that they wait for.
    fn open(&self, suspect: u64) {
        self.company.send_if_modified(|company| company.open(suspect));
    }

    async fn chair(&self, priority: u8) -> Chair {
        loop {
            let waiting = {
                let mut room = self.locked();
                if let Some(free) = room.free.checked_sub(1) {
                    room.free = free;
                    drop(room);
                    return Chair { seats: Some(self.clone()) };
                }
                let (given, waiting) = oneshot::channel();
                if room.waiting.len() >= LEFT_MAX {
                    room.waiting.retain(|_, waiting| !waiting.is_closed());
                }
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

    /// Gives a chair to the next who still waits.
    fn pass_on(self) {
        let mut chair = Chair { seats: Some(self.clone()) };
        loop {
            let next = {
                let mut room = self.locked();
                let next = room.waiting.pop_first();
                room.free += usize::from(next.is_none());
                next
            };
            let Some((_, waiting)) = next else { break };
            match waiting.send(chair) {
                Ok(()) => return,
                Err(refused) => chair = refused,
            }
        }
        // It is counted already.
        chair.seats = None;
    }
}

impl Company {
    fn open(&mut self, suspect: u64) -> bool {
        let is_closed = self.door != Door::Open && self.suspects == suspect;
        if is_closed {
            self.door = Door::Open;
        }
        is_closed
    }

    /// The suspect's number, if it is to be waited for until it is alone: a process whose jobs are
    /// long is not held up again and again.
    fn empty_for_next(&mut self) -> Option<u64> {
        if self.borne_at.is_some_and(|at| at.elapsed() < ALONE_PAUSE) {
            return None;
        }
        self.door = Door::Emptying;
        self.suspects += 1;
        Some(self.suspects)
    }
}

impl Seat {
    /// The same seat with nobody in any other, if that can be had within [`ALONE_MAX`], and for
    /// that long at most.
    pub(crate) async fn alone(mut self) -> Self {
        let seats = self.presence.seats.clone();
        let mut suspect = None;
        // Whoever waits now is let in when the door opens.
        seats.company.send_if_modified(|company| {
            suspect = company.empty_for_next();
            false
        });
        let Some(suspect) = suspect else { return self };
        let mut emptying = Emptying { seats: &seats, suspect, is_over: false };
        if tokio::time::timeout(seats.alone_max, emptying.shut()).await.is_ok() {
            self.presence.alone = Some(suspect);
            let seats = seats.clone();
            tokio::spawn(async move {
                tokio::time::sleep(seats.alone_max).await;
                seats.open(suspect);
            });
        } else {
            seats.company.send_if_modified(|company| {
                company.borne_at = Some(Instant::now());
                false
            });
        }
        self
    }
}

/// A room that is to empty; opened again unless it was shut.
struct Emptying<'a> {
    seats: &'a Seats,
    suspect: u64,
    is_over: bool,
}

impl Emptying<'_> {
    /// Shuts the door as soon as nobody but the suspect is inside.
    async fn shut(&mut self) {
        let mut company = self.seats.company.subscribe();
        while !self.is_over {
            // The sender is the room's own.
            let _ = company.wait_for(|company| company.inside == 1).await;
            self.seats.company.send_if_modified(|company| {
                self.is_over = company.inside == 1;
                if self.is_over {
                    company.door = Door::Shut;
                }
                false
            });
        }
    }
}

impl Drop for Emptying<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.seats.open(self.suspect);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.seats.company.send_if_modified(|company| {
            company.inside -= 1;
            let opened = self.alone.is_some_and(|suspect| company.open(suspect));
            opened || (company.inside == 1 && company.door == Door::Emptying)
        });
    }
}

impl Drop for Chair {
    fn drop(&mut self) {
        if let Some(seats) = self.seats.take() {
            seats.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const FETCHED: Guest = Guest::Fetched;

    #[test]
    fn the_most_urgent_gets_the_next_seat_and_then_who_came_first() {
        let seats = Seats::new(1);
        let taken = seats.take(0, FETCHED).now_or_never().unwrap();
        assert!(seats.take(0, FETCHED).now_or_never().is_none());
        let mut low = std::pin::pin!(seats.take(1, FETCHED));
        let mut high = std::pin::pin!(seats.take(2, FETCHED));
        let mut later = std::pin::pin!(seats.take(2, FETCHED));
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
        assert!(seats.take(0, FETCHED).now_or_never().is_some());
    }

    #[tokio::test]
    async fn one_that_is_alone_waits_for_the_others_and_holds_up_new_ones() {
        let seats = Seats::new(3);
        let other = seats.take(0, FETCHED).await;
        let mut alone = std::pin::pin!(seats.take(0, FETCHED).await.alone());
        assert!(alone.as_mut().now_or_never().is_none());
        let mut fresh = std::pin::pin!(seats.take(9, FETCHED));
        assert!(fresh.as_mut().now_or_never().is_none());
        assert_eq!(seats.free(), 0);
        drop(other);
        let alone = alone.await;
        assert!(fresh.as_mut().now_or_never().is_none());
        drop(alone);
        drop(fresh.await);
        assert_eq!(seats.free(), 3);
    }

    #[tokio::test]
    async fn what_was_taken_over_comes_in_until_the_suspect_is_alone() {
        let seats = Seats::new(3);
        let other = seats.take(0, FETCHED).await;
        let mut alone = std::pin::pin!(seats.take(0, FETCHED).await.alone());
        assert!(alone.as_mut().now_or_never().is_none());
        let taken_over = seats.take(0, Guest::TakenOver).now_or_never().unwrap();
        drop(other);
        assert!(alone.as_mut().now_or_never().is_none(), "somebody is there");
        drop(taken_over);
        let alone = alone.await;
        assert!(seats.take(0, Guest::TakenOver).now_or_never().is_none());
        drop(alone);
        assert_eq!(seats.free(), 3);
    }

    #[tokio::test]
    async fn a_suspect_that_gave_up_waiting_opens_the_door() {
        let seats = Seats::new(3);
        let other = seats.take(0, FETCHED).await;
        {
            let mut alone = std::pin::pin!(seats.take(0, FETCHED).await.alone());
            assert!(alone.as_mut().now_or_never().is_none());
        }
        drop((other, seats.take(0, FETCHED).now_or_never().unwrap()));
        assert_eq!(seats.free(), 3);
    }

    #[tokio::test]
    async fn one_that_is_alone_holds_nobody_up_for_ever() {
        let seats = Seats::with_patience(3, Duration::from_millis(10));
        let endless = seats.take(0, FETCHED).await.alone().await;
        let beside = seats.take(0, FETCHED).await;
        drop((endless, beside));
        assert_eq!(seats.free(), 3);
    }

    #[tokio::test]
    async fn a_process_whose_jobs_are_long_is_not_held_up_again_and_again() {
        let seats = Seats::with_patience(4, Duration::from_millis(10));
        let long = seats.take(0, FETCHED).await;
        drop(seats.take(0, FETCHED).await.alone().await);
        let second =
            seats.take(0, FETCHED).await.alone().now_or_never().expect("it bears company at once");
        drop((long, second));
        assert_eq!(seats.free(), 4);
    }

    #[test]
    fn many_who_stopped_waiting_are_forgotten() {
        let seats = Seats::new(1);
        let taken = seats.take(0, FETCHED).now_or_never().unwrap();
        for _ in 0..20_000 {
            assert!(seats.take(9, FETCHED).now_or_never().is_none());
        }
        assert!(seats.locked().waiting.len() <= LEFT_MAX);
        drop(taken);
        assert_eq!(seats.free(), 1);
    }

    #[test]
    fn a_seat_given_to_nobody_is_passed_on() {
        let seats = Seats::new(1);
        let taken = seats.take(0, FETCHED).now_or_never().unwrap();
        {
            let mut gone = std::pin::pin!(seats.take(9, FETCHED));
            assert!(gone.as_mut().now_or_never().is_none());
        }
        let mut waiting = std::pin::pin!(seats.take(1, FETCHED));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(taken);
        assert!(waiting.now_or_never().is_some());
    }
}
