//! Memory of all decompression together: a semaphore in bytes, first come, first served.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Cancel;
use super::refusal::{check, refusal};
use crate::wording::two_sizes;

/// Interval at which a waiter looks whether it is cancelled.
const CANCEL_CHECK: Duration = Duration::from_millis(100);

/// Memory that decompression takes up. Cheap to clone; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    next_ticket: u64,
    /// Tickets of those who wait. The lowest is served first, so that one who needs much is not passed by for ever.
    waiting: BTreeSet<u64>,
}

/// Refuses `bytes` of memory if they are more than `capacity`.
pub(super) fn check_capacity(bytes: u64, capacity: u64) -> io::Result<()> {
    if bytes <= capacity {
        return Ok(());
    }
    let (bytes, capacity) = two_sizes(bytes, capacity);
    Err(refusal(format!("its decompression takes {bytes} of memory, more than [unpack] memory = {capacity} allows")))
}

/// Memory that one decompressor may use. Returned when dropped.
#[derive(Debug)]
pub(super) struct Grant {
    memory: Memory,
    bytes: u64,
}

impl Memory {
    /// Waits until `bytes` more are within `capacity`, or until `cancel` is set. Hold no other grant meanwhile: two
    /// that wait for each other's would wait for ever.
    pub(super) fn acquire(&self, bytes: u64, capacity: u64, cancel: &Cancel) -> io::Result<Grant> {
        check_capacity(bytes, capacity)?;
        let mut state = self.state();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.insert(ticket);
        let outcome = loop {
            if let Err(cancelled) = check(cancel) {
                break Err(cancelled);
            }
            let is_first = state.waiting.first() == Some(&ticket);
            if is_first && state.used.saturating_add(bytes) <= capacity {
                state.used += bytes;
                break Ok(Grant { memory: self.clone(), bytes });
            }
            let waited = self.0.changed.wait_timeout(state, CANCEL_CHECK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.waiting.remove(&ticket);
        drop(state);
        self.0.changed.notify_all();
        outcome
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Grant {
    /// Size of the grant in bytes.
    fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.memory.state().used -= self.bytes;
        self.memory.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusal::{is_cancelled, is_refusal};
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn all_grants_together_are_within_the_capacity() {
        let (memory, cancel) = (Memory::default(), Cancel::default());
        let first = memory.acquire(40, 64, &cancel).unwrap();
        let small = memory.acquire(24, 64, &cancel).unwrap();
        let (granted, grants) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| granted.send(memory.acquire(40, 64, &cancel).unwrap().bytes()).unwrap());
            while memory.state().waiting.is_empty() {
                std::thread::yield_now();
            }
            drop(small);
            assert!(grants.try_recv().is_err(), "40 and 40 are more than 64");
            drop(first);
            assert_eq!(grants.recv(), Ok(40));
        });
        assert_eq!(memory.state().used, 0);
    }

    #[test]
    fn a_large_request_is_not_overtaken() {
        let (memory, cancel) = (Memory::default(), Cancel::default());
        let held = memory.acquire(40, 64, &cancel).unwrap();
        let (order, served) = mpsc::channel();
        std::thread::scope(|scope| {
            for bytes in [64, 1] {
                let (memory, cancel, order) = (&memory, &cancel, order.clone());
                scope.spawn(move || {
                    let grant = memory.acquire(bytes, 64, cancel).unwrap();
                    order.send(bytes).unwrap();
                    drop(grant);
                });
                while !memory.state().waiting.contains(&(2 - u64::from(bytes == 64))) {
                    std::thread::yield_now();
                }
            }
            drop(held);
            assert_eq!([served.recv(), served.recv()], [Ok(64), Ok(1)]);
        });
    }

    #[test]
    fn waiting_ends_when_cancelled() {
        let (memory, cancel) = (Memory::default(), Cancel::default());
        let _held = memory.acquire(64, 64, &cancel).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| memory.acquire(1, 64, &cancel).map(drop));
            drop(cancel.on_drop());
            assert!(is_cancelled(&waiter.join().unwrap().unwrap_err()));
        });
        assert!(memory.state().waiting.is_empty());
    }

    #[test]
    fn more_than_the_capacity_is_refused_by_its_key() {
        let refused = Memory::default().acquire(65, 64, &Cancel::default()).unwrap_err();
        assert!(is_refusal(&refused) && refused.to_string().contains("[unpack] memory = 64"), "{refused}");
    }
}
