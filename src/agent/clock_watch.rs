//! Notices that somebody sets the clock: what failed because it was wrong may work now.

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::sync::mpsc;

use super::handle::Request;
use super::transition::Event;

/// As far away as a timer that never rings has to be, in seconds of the epoch.
const NEVER: i64 = 1 << 40;

/// Has a thread tell the loop each time the clock is set, for as long as the process lives. Without a thread or such a
/// timer, what failed is tried again later all the same.
pub(super) fn watch_clock(requests: mpsc::Sender<Request>) {
    let watch = move || {
        let Ok(timer) = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC) else { return };
        // The kernel ends the wait when the clock is set (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
        let until_set = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        while timer.set(Expiration::OneShot(TimeSpec::new(NEVER, 0)), until_set).is_ok() {
            match timer.wait() {
                Err(Errno::ECANCELED) => tracing::info!("the clock was set"),
                Err(Errno::EINTR) => continue,
                _ => return,
            }
            if requests.blocking_send(Request::Event(Event::ClockSet)).is_err() {
                return;
            }
        }
    };
    let _ = std::thread::Builder::new().name("clock".to_owned()).spawn(watch);
}
