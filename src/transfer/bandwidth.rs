//! A limit on how fast bytes come in, over all transfers together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How far the line may run ahead of a limit that was not used for a while: a fortieth of a second's bytes, which whoever
/// measures takes for nothing.
const BURST: Duration = Duration::from_millis(25);

/// The limit. Whoever received bytes waits for as long as they should have taken; the sender feels that, because nobody
/// takes its next ones meanwhile.
#[derive(Debug)]
pub(super) struct Bandwidth {
    bytes_per_second: Option<u64>,
    /// When all that came so far should have come.
    due: Mutex<Instant>,
}

impl Bandwidth {
    /// So many bytes a second; none for no limit.
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, due: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more should have come.
    pub(super) async fn pace(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let nanoseconds = bytes as u128 * 1_000_000_000 / u128::from(rate.max(1));
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let due = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = Instant::now().checked_sub(BURST).unwrap_or(*due);
            *due = (*due).max(earliest) + cost;
            *due
        };
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_together_are_as_fast_as_the_limit() {
        let limit = Bandwidth::new(Some(1 << 20));
        let start = Instant::now();
        let one = async || {
            for _ in 0..100 {
                limit.pace(10 << 10).await;
            }
        };
        tokio::join!(one(), one(), one());
        let speed = 3_072_000.0 / start.elapsed().as_secs_f64();
        assert!((speed / f64::from(1 << 20) - 1.0).abs() < 0.05, "{speed}");
        // What was not used for a minute does not come all at once afterwards.
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        limit.pace(1 << 20).await;
        assert!(start.elapsed() >= Duration::from_millis(850), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_has_much_more_than_the_limit() {
        let (rate, piece) = (1 << 20, 4 << 10);
        let limit = Bandwidth::new(Some(rate as u64));
        tokio::time::advance(Duration::from_secs(60)).await;
        let came = Mutex::new(Vec::new());
        let one = async || {
            for _ in 0..200 {
                came.lock().unwrap().push(Instant::now());
                limit.pace(piece).await;
            }
        };
        tokio::join!(one(), one(), one());
        let came = came.into_inner().unwrap();
        let second = |begin: Instant| begin..begin + Duration::from_secs(1);
        let most = came.iter().map(|at| came.iter().filter(|other| second(*at).contains(*other)).count() * piece).max();
        let per_mille = most.unwrap() * 1000 / rate;
        assert!((950..=1050).contains(&per_mille), "{per_mille}");
    }
}
