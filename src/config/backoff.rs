//! Exponential backoff with jitter, for the agent and for commands alike.

use std::time::Duration;

use super::RetrySettings;
use crate::failure::Retry;

/// The longest wait, whatever settings or a registry ask for: a clock that runs over would end the agent.
const LONGEST_WAIT: Duration = Duration::from_secs(366 * 24 * 3600);

impl RetrySettings {
    /// The wait after a failure that followed `attempts` others: exponential with full jitter, which spreads the retries of
    /// many nodes best (the analysis is "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). `chance`, from 0 to
    /// 1, is the jitter.
    pub fn delay(&self, retry: Retry, attempts: u32, chance: f64) -> Duration {
        let longest = self.initial.saturating_mul(2_u32.saturating_pow(attempts)).min(self.max);
        let jittered = longest.min(LONGEST_WAIT).mul_f64(chance);
        match retry {
            // At least the wait that the registry asked for. That may be zero, so the backoff is added.
            Retry::After(asked) => asked.min(LONGEST_WAIT) + jittered,
            Retry::Never | Retry::Later => jittered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let second = Duration::from_secs(1);
        let retry = RetrySettings { initial: second, max: 10 * second };
        let waits = [0, 1, 2, 3, 4, u32::MAX].map(|attempts| retry.delay(Retry::Later, attempts, 1.0).as_secs());
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(retry.delay(Retry::Later, 3, 0.25), 2 * second);
        assert_eq!(retry.delay(Retry::After(60 * second), 1, 0.5), 61 * second);
        let endless = RetrySettings { initial: Duration::MAX, max: Duration::MAX };
        assert_eq!(endless.delay(Retry::After(Duration::MAX), 9, 1.0), 2 * LONGEST_WAIT);
    }
}
