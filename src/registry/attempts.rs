//! Retries of a command: the agent's backoff with a limited number of tries.

use std::time::Duration;

use super::RegistryError;
use crate::config::RetrySettings;
use crate::failure::{Classify, Retry, full_text};

/// Tries in a row without progress before the command fails.
const ATTEMPTS: u32 = 5;
/// The longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The tries of one operation.
#[derive(Debug)]
pub struct Attempts {
    retry: RetrySettings,
    failed: u32,
    /// True once the registry has answered.
    is_reached: bool,
}

impl Attempts {
    /// No tries yet, of a registry that has not answered yet.
    pub fn new(retry: RetrySettings) -> Self {
        Self { retry, failed: 0, is_reached: false }
    }

    /// Records that the registry has answered. A registry that never has is not retried.
    pub fn note_reached(&mut self) {
        self.is_reached = true;
    }

    /// Records progress of the last try, which makes the count start again.
    pub fn note_progress(&mut self) {
        self.failed = self.failed.min(1);
    }

    /// As [`Self::wait`] for a registry's error; false for none.
    pub async fn wait_after(&mut self, error: Option<&RegistryError>) -> bool {
        match error {
            Some(error) => self.wait(error).await,
            None => false,
        }
    }

    /// Waits before the next try after a failure; false if the command should give up.
    pub async fn wait(&mut self, error: &RegistryError) -> bool {
        self.failed += 1;
        let retry = RetrySettings { max: self.retry.max.min(MAX_WAIT), ..self.retry };
        let wait = retry.delay(error.retry(), self.failed - 1, fastrand::f64());
        let is_hopeless = error.is_without_contact() && !self.is_reached;
        let is_too_long = matches!(error.retry(), Retry::After(asked) if asked > MAX_WAIT);
        self.is_reached |= !error.is_without_contact();
        if is_hopeless || is_too_long || !error.is_passing() || self.failed >= ATTEMPTS {
            return false;
        }
        tracing::warn!(
            "{}; trying again in {:.1} s (try {} of {ATTEMPTS})",
            full_text(error),
            wait.as_secs_f64(),
            self.failed + 1
        );
        tokio::time::sleep(wait).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::failure::Kind;

    const RETRY: RetrySettings = RetrySettings { initial: Duration::from_secs(1), max: Duration::from_secs(600) };

    fn status(status: u16, retry_after: Option<u64>) -> RegistryError {
        let retry_after = retry_after.map(Duration::from_secs);
        RegistryError::Status { url: "x".to_owned(), status, detail: String::new(), retry_after }
    }

    async fn tries(error: &RegistryError, mut attempts: Attempts) -> u32 {
        let mut tries = 1;
        while attempts.wait(error).await {
            tries += 1;
        }
        tries
    }

    #[tokio::test(start_paused = true)]
    async fn passing_errors_are_retried_five_times() {
        let started = Instant::now();
        for code in [408, 429, 500, 502, 503, 504] {
            assert_eq!(tries(&status(code, None), Attempts::new(RETRY)).await, ATTEMPTS, "{code}");
        }
        assert!(started.elapsed() <= 6 * Duration::from_secs(1 + 2 + 4 + 8));
        for code in [401, 403, 404, 501] {
            assert_eq!(tries(&status(code, None), Attempts::new(RETRY)).await, 1, "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_of_more_than_30_seconds_fails() {
        let started = Instant::now();
        assert!(Attempts::new(RETRY).wait(&status(429, Some(30))).await);
        assert!((30.0..=31.0).contains(&started.elapsed().as_secs_f64()));
        assert!(!Attempts::new(RETRY).wait(&status(429, Some(31))).await);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_counts_and_contact_too() {
        let mut attempts = Attempts::new(RETRY);
        for _ in 0..20 {
            assert!(attempts.wait(&status(502, None)).await);
            attempts.note_progress();
        }
        let silent = RegistryError::Transport {
            url: "x".to_owned(),
            kind: Kind::Timeout,
            what: "the registry stopped answering",
            cause: String::new(),
        };
        assert_eq!(tries(&silent, Attempts::new(RETRY)).await, 1);
        let mut reached = Attempts::new(RETRY);
        reached.note_reached();
        assert_eq!(tries(&silent, reached).await, ATTEMPTS);
    }
}
