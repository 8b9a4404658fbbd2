//! Whether bytes still go out. A client's own time-outs count from the request to its answer, and would end every upload
//! that takes longer than that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How long a registry may think once it has all bytes: it hashes and moves them.
pub(super) const COMMIT_TIMEOUT: Duration = Duration::from_secs(300);

/// Felt by what sends, watched by who waits.
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    state: Arc<Mutex<State>>,
    idle: Duration,
}

#[derive(Clone, Copy, Debug)]
struct State {
    last: Instant,
    left: u64,
}

impl Pulse {
    /// Of something that sends `bytes`, and must not pause for longer than `idle`.
    pub(super) fn new(bytes: u64, idle: Duration) -> Self {
        Self { state: Arc::new(Mutex::new(State { last: Instant::now(), left: bytes })), idle }
    }

    /// So many bytes were taken.
    pub(super) fn beat(&self, bytes: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { last: Instant::now(), left: state.left.saturating_sub(bytes as u64) };
    }

    /// Ends when nothing was taken for too long.
    pub(super) async fn stopped(&self) {
        loop {
            let end = self.end();
            sleep_until(end).await;
            if self.end() == end {
                return;
            }
        }
    }

    fn end(&self) -> Instant {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last + if state.left == 0 { self.idle.max(COMMIT_TIMEOUT) } else { self.idle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_stops_when_nothing_moves_and_waits_longer_for_the_end() {
        let start = Instant::now();
        let pulse = Pulse::new(10, Duration::from_secs(30));
        let beating = pulse.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                beating.beat(1);
            }
        });
        pulse.stopped().await;
        assert_eq!(start.elapsed().as_secs(), 130);
        let pulse = Pulse::new(1, Duration::from_secs(30));
        pulse.beat(1);
        let start = Instant::now();
        pulse.stopped().await;
        assert_eq!(start.elapsed().as_secs(), COMMIT_TIMEOUT.as_secs());
    }
}
