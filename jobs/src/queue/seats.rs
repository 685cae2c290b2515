//! Priorities between queues: the seats that all queues of a process share. When none is free, the
//! next one goes to the most urgent queue that waits.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// The jobs that one process runs at once, over all its queues. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Seats {
    room: Arc<Mutex<Room>>,
}

#[derive(Debug)]
struct Room {
    free: usize,
    /// By urgency, then by who came first.
    waiting: BTreeMap<(Reverse<u8>, u64), oneshot::Sender<Seat>>,
    arrivals: u64,
}

/// One job's seat; given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Seats,
}

impl Seats {
    /// Seats for `count` jobs at once.
    pub fn new(count: usize) -> Self {
        Self { room: Arc::new(Mutex::new(Room { free: count, waiting: BTreeMap::new(), arrivals: 0 })) }
    }

    fn locked(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat, once it is this queue's turn.
    pub(crate) async fn take(&self, priority: u8) -> Seat {
        loop {
            let waiting = {
                let mut room = self.locked();
                if let Some(free) = room.free.checked_sub(1) {
                    room.free = free;
                    drop(room);
                    return Seat { seats: self.clone() };
                }
                let (given, waiting) = oneshot::channel();
                room.arrivals += 1;
                let arrival = room.arrivals;
                room.waiting.insert((Reverse(priority), arrival), given);
                waiting
            };
            if let Ok(seat) = waiting.await {
                return seat;
            }
        }
    }
}

impl Drop for Seat {
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
