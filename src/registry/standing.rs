//! What is remembered of a host: that it is down or slow, that it wants to be left alone, that it serves wrong bytes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::RegistryError;
use crate::failure::{Classify, Kind, Retry};
use crate::oci::Digest;

/// How long a mirror that is down is left alone at first: it costs a connection time-out to find out that it still is. Each
/// time it is down again, twice as long.
const REST: Duration = Duration::from_secs(60);
/// The longest that it is left alone.
const LONGEST_REST: Duration = Duration::from_secs(3600);
/// How long a registry that gets ranges wrong is asked for none: a cache may get them right once it has a blob.
const WITHOUT_RANGES: Duration = Duration::from_secs(600);
/// How long a mirror that is slow is left alone, as long as others have the same.
const SLOW_FOR: Duration = Duration::from_secs(600);
/// How many blobs are remembered. One that has more is asked for some of them once more.
const MAX_LEFT_OUT: usize = 1000;

/// The memory of one host. It is forgotten when the agent starts, and when its settings are read again.
#[derive(Debug, Default)]
pub struct Standing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rests_until: Option<Instant>,
    /// How often it has failed in a row.
    failures: u32,
    /// Until when it counts as slow, and how many bytes a second it brought.
    slow: Option<(Instant, u64)>,
    no_ranges_until: Option<Instant>,
    /// What it is not asked for, and until when: what it lacks for a while, what it has wrong for good.
    left_out: BTreeMap<Digest, Option<Instant>>,
}

impl Standing {
    /// Whether it is worth asking, for something that has this digest where it has one.
    pub(super) fn is_good(&self, digest: Option<&Digest>) -> bool {
        self.wait().is_none() && self.is_trusted(digest)
    }

    /// Whether it was not seen to lack this, or to have it wrong.
    pub(super) fn is_trusted(&self, digest: Option<&Digest>) -> bool {
        match digest.and_then(|digest| self.state().left_out.get(digest).copied()) {
            None => true,
            Some(until) => until.is_some_and(|until| until <= Instant::now()),
        }
    }

    /// Asks it again although it rests.
    pub(super) fn wake(&self) {
        self.state().rests_until = None;
    }

    /// Asks it again whatever it was before.
    pub(super) fn rouse(&self) {
        let mut state = self.state();
        (state.rests_until, state.slow) = (None, None);
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

    /// Takes notice of why a mirror did not give what it was asked for. One that lacks something may have everything else.
    pub(super) fn note(&self, error: &RegistryError, digest: Option<&Digest>) {
        match (error.retry(), digest) {
            (Retry::After(time), _) => self.rest(time),
            (_, Some(digest)) if error.kind() == Kind::NotFound => self.leave_out(digest, Some(Instant::now() + REST)),
            (_, None) if error.kind() == Kind::NotFound => {}
            _ => self.failed(),
        }
    }

    /// It has answered as it should.
    pub(super) fn succeeded(&self) {
        self.state().failures = 0;
    }

    /// It is down, or as good as that.
    pub fn failed(&self) {
        let failures = {
            let mut state = self.state();
            state.failures = state.failures.saturating_add(1);
            // How fast it was says nothing any more.
            state.slow = None;
            state.failures
        };
        self.rest(REST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_REST));
    }

    /// It brings so few bytes a second that others are to be asked.
    pub(super) fn found_slow(&self, bytes_per_second: u64) {
        self.state().slow = Some((Instant::now() + SLOW_FOR, bytes_per_second));
        self.rest(SLOW_FOR);
    }

    /// How many bytes a second it brought when it was found slow, a while ago.
    pub fn slowness(&self) -> Option<u64> {
        self.state().slow.filter(|(until, _)| *until > Instant::now()).map(|(_, speed)| speed)
    }

    /// It has sent wrong bytes of a blob, or may have: it is not asked for that again.
    pub fn distrust(&self, digest: &Digest) {
        self.leave_out(digest, None);
    }

    fn leave_out(&self, digest: &Digest, until: Option<Instant>) {
        let mut state = self.state();
        if state.left_out.len() >= MAX_LEFT_OUT {
            state.left_out.pop_first();
        }
        state.left_out.insert(*digest, until);
    }

    /// It did not send the part of a blob that it was asked for. Whether that is news.
    pub(super) fn gets_ranges_wrong(&self) -> bool {
        let is_news = self.does_ranges();
        self.state().no_ranges_until = Some(Instant::now() + WITHOUT_RANGES);
        is_news
    }

    /// Whether it has lately sent the parts that it was asked for.
    pub(super) fn does_ranges(&self) -> bool {
        self.state().no_ranges_until.is_none_or(|until| until <= Instant::now())
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
        standing.failed();
        standing.rest(Duration::from_secs(1));
        assert!(!standing.is_good(None));
        assert_eq!(standing.wait(), Some(REST));
        tokio::time::advance(REST).await;
        assert!(standing.is_good(Some(&right)) && !standing.is_good(Some(&wrong)));
        standing.failed();
        assert_eq!(standing.wait(), Some(2 * REST), "it is down again");
        tokio::time::advance(2 * REST).await;
        standing.succeeded();
        standing.failed();
        assert_eq!(standing.wait(), Some(REST));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_is_slow_for_a_while_although_it_is_asked_as_a_last_resort() {
        let standing = Standing::default();
        standing.found_slow(1000);
        assert!(!standing.is_good(None));
        standing.wake();
        assert!(standing.is_good(None));
        assert_eq!(standing.slowness(), Some(1000));
        tokio::time::advance(SLOW_FOR).await;
        assert_eq!(standing.slowness(), None);
        standing.found_slow(1000);
        standing.failed();
        assert_eq!(standing.slowness(), None, "it is worse than slow");
        standing.found_slow(1000);
        standing.rouse();
        assert!(standing.is_good(None) && standing.slowness().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_host_lacks_and_that_it_does_no_ranges_is_forgotten_after_a_while() {
        let (standing, absent) = (Standing::default(), Digest::of(b"a"));
        let status = RegistryError::Status { url: "x".into(), status: 404, detail: String::new(), retry_after: None };
        standing.note(&status, Some(&absent));
        assert!(!standing.is_good(Some(&absent)) && standing.is_good(None));
        assert!(standing.gets_ranges_wrong() && !standing.gets_ranges_wrong() && !standing.does_ranges());
        tokio::time::advance(WITHOUT_RANGES).await;
        assert!(standing.is_good(Some(&absent)) && standing.does_ranges());
    }
}
