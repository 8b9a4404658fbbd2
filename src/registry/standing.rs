//! What is remembered of a host: that it is down, that it wants to be left alone, that it serves wrong bytes.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::RegistryError;
use crate::failure::{Classify, Kind, Retry};
use crate::oci::Digest;

/// How long a mirror that is down is left alone: it costs a connection time-out to find out that it still is.
const REST: Duration = Duration::from_secs(60);
/// How many blobs are remembered to be wrong. One that has more is asked for some of them once more.
const MAX_WRONG: usize = 1000;

/// The memory of one host. It is forgotten when the agent starts, and when its settings are read again.
#[derive(Debug, Default)]
pub struct Standing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rests_until: Option<Instant>,
    wrong: BTreeSet<Digest>,
}

impl Standing {
    /// Whether it is worth asking, for something that has this digest where it has one.
    pub(super) fn is_good(&self, digest: Option<&Digest>) -> bool {
        self.wait().is_none() && self.is_trusted(digest)
    }

    /// Whether it was not seen to serve wrong bytes under this digest.
    pub(super) fn is_trusted(&self, digest: Option<&Digest>) -> bool {
        digest.is_none_or(|digest| !self.state().wrong.contains(digest))
    }

    /// Asks it again although it rests.
    pub(super) fn wake(&self) {
        self.state().rests_until = None;
    }

    /// How much longer it is to be left alone.
    pub(super) fn wait(&self) -> Option<Duration> {
        let left = self.state().rests_until?.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then_some(left)
    }

    /// Leaves it alone for so long.
    pub(super) fn rest(&self, time: Duration) {
        let mut state = self.state();
        let until = Instant::now() + time;
        state.rests_until = Some(state.rests_until.map_or(until, |already| already.max(until)));
    }

    /// Takes notice of what a mirror has answered. One that lacks something may have everything else.
    pub(super) fn note(&self, error: &RegistryError) {
        match error.retry() {
            Retry::After(time) => self.rest(time),
            _ if matches!(error.kind(), Kind::Unreachable | Kind::Timeout | Kind::Tls | Kind::RegistryError) => {
                self.rest(REST);
            }
            _ => {}
        }
    }

    /// It has sent next to nothing of a blob before it broke off.
    pub fn broke_off(&self) {
        self.rest(REST);
    }

    /// It has sent wrong bytes of a blob, or may have: it is not asked for that again.
    pub fn distrust(&self, digest: &Digest) {
        let mut state = self.state();
        if state.wrong.len() >= MAX_WRONG {
            state.wrong.pop_first();
        }
        state.wrong.insert(*digest);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_rests_for_a_while_and_is_distrusted_for_good() {
        let standing = Standing::default();
        let (wrong, right) = (Digest::of(b"a"), Digest::of(b"b"));
        standing.distrust(&wrong);
        assert!(!standing.is_good(Some(&wrong)) && standing.is_good(Some(&right)) && standing.is_good(None));
        standing.broke_off();
        standing.rest(Duration::from_secs(1));
        assert!(!standing.is_good(None));
        assert_eq!(standing.wait(), Some(REST));
        tokio::time::advance(REST).await;
        assert!(standing.is_good(Some(&right)) && !standing.is_good(Some(&wrong)));
    }
}
