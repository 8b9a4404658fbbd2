//! When to try and to look again.

use std::time::Duration;

use crate::agent::context::Context;
use crate::failure::{Kind, Retry};

/// How far a poll may be from its interval, in parts of it: nodes that were started together drift apart.
const POLL_JITTER: f64 = 0.1;
/// The longest wait, whatever settings or a registry ask for: a clock that runs over would end the agent.
const LONGEST_WAIT: Duration = Duration::from_secs(366 * 24 * 3600);
/// After so many failures in a row that cost bytes, a node waits as long as for a poll.
const COSTLY_ATTEMPTS: u32 = 3;
/// The longest of these waits.
const LONGEST_COSTLY_WAIT: Duration = Duration::from_secs(3600);

/// When to look at a tag again, on the monotonic clock; none where that is off.
pub(in crate::agent) fn next_poll(context: &Context) -> Option<Duration> {
    let spread = 1.0 + POLL_JITTER * (2.0 * context.chance - 1.0);
    context.policy.poll.map(|poll| context.now + poll.min(LONGEST_WAIT).mul_f64(spread))
}

/// How long to wait after a failure that followed `attempts` others. Where each try may cost all of a blob's bytes, a few
/// in a row are enough to wait as long as for a poll.
pub(in crate::agent) fn delay(kind: Kind, retry: Retry, attempts: u32, context: &Context) -> Duration {
    let wait = context.policy.retry.delay(retry, attempts, context.chance);
    if is_costly(kind) && attempts >= COSTLY_ATTEMPTS {
        wait.max(context.policy.poll.unwrap_or(LONGEST_COSTLY_WAIT).min(LONGEST_COSTLY_WAIT))
    } else {
        wait
    }
}

/// Whether each try may cost all of a blob's bytes: the registry serves wrong ones.
fn is_costly(kind: Kind) -> bool {
    matches!(kind, Kind::DigestMismatch | Kind::SizeMismatch)
}
