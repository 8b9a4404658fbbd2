//! Coalescing: many calls of the same kind cause one run in an interval.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Runs of at most one in an interval for each key. A call during the interval waits for its end; all calls that wait
/// share one run and its answer, which therefore begins after each of them.
pub(super) struct Coalesce<K, A> {
    interval: Duration,
    keys: Mutex<BTreeMap<K, Arc<Runs<A>>>>,
}

/// The runs of one key.
struct Runs<A> {
    /// Runs that have begun.
    begun: AtomicU64,
    last: tokio::sync::Mutex<Option<LastRun<A>>>,
}

struct LastRun<A> {
    at: Instant,
    number: u64,
    /// None if the client left before the answer.
    answer: Option<A>,
}

impl<K: Ord, A: Clone> Coalesce<K, A> {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, keys: Mutex::default() }
    }

    /// The answer of a run that begins after this call: of its own, or of one that it shares.
    pub(super) async fn run<F: Future<Output = A>>(&self, key: K, run: impl FnOnce() -> F) -> A {
        let runs = self.runs(key);
        let seen = runs.begun.load(Ordering::SeqCst);
        let mut last = runs.last.lock().await;
        if let Some(last) = last.as_ref() {
            if let Some(answer) = last.answer.as_ref().filter(|_| last.number > seen) {
                return answer.clone();
            }
            sleep_until(last.at + self.interval).await;
        }
        let number = runs.begun.fetch_add(1, Ordering::SeqCst) + 1;
        // Noted before the run: a client that leaves early has caused a run as well.
        let begun = last.insert(LastRun { at: Instant::now(), number, answer: None });
        let answer = run().await;
        begun.answer = Some(answer.clone());
        answer
    }

    fn runs(&self, key: K) -> Arc<Runs<A>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Runs { begun: AtomicU64::new(0), last: tokio::sync::Mutex::new(None) });
        Arc::clone(keys.entry(key).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn calls_within_a_second_share_one_run() {
        let coalesce = Coalesce::new(SECOND);
        let count = AtomicU64::new(0);
        let call = |key: &'static str| coalesce.run(key, || async { count.fetch_add(1, Ordering::SeqCst) });
        let start = Instant::now();
        assert_eq!(call("all").await, 0);
        assert!(start.elapsed().is_zero(), "the first call waits for nothing");
        let answers = futures_util::future::join_all((0..100).map(|_| call("all"))).await;
        assert!(answers.iter().all(|answer| *answer == 1), "one run: {answers:?}");
        assert_eq!(start.elapsed(), SECOND);
        assert_eq!(call("other").await, 2, "another workload has an interval of its own");
        assert_eq!(start.elapsed(), SECOND);
        tokio::time::advance(SECOND).await;
        assert_eq!(call("all").await, 3);
        assert_eq!(start.elapsed(), SECOND * 2, "nobody asked for a while");
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_leave_early_cause_no_more_runs() {
        let coalesce = Coalesce::new(SECOND);
        let count = AtomicU64::new(0);
        let endless = || {
            count.fetch_add(1, Ordering::SeqCst);
            std::future::pending()
        };
        let start = Instant::now();
        for _ in 0..19 {
            assert!(tokio::time::timeout(SECOND / 4, coalesce.run((), endless)).await.is_err());
        }
        assert_eq!((start.elapsed(), count.load(Ordering::SeqCst)), (SECOND / 4 * 19, 5), "at 0, 1, 2, 3 and 4 s");
        coalesce.run((), || async {}).await;
        assert_eq!(start.elapsed(), SECOND * 5, "a second after the last run");
    }
}
