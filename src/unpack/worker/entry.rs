//! The beginning of a program that may be a worker.

use std::ffi::OsStr;
use std::process::ExitCode;

use super::program::{OF_PROCESS, Worker};
use super::serve::{ARGUMENT, work};

/// Works, if this process was started as a worker; the process has to end with the result. Otherwise makes this program
/// the worker of the process. Call it first in `main`, while the process has one thread.
pub fn work_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(ARGUMENT)) {
        // A second call changes nothing.
        let _ = OF_PROCESS.set(Worker::program("/proc/self/exe", &[]));
        return None;
    }
    let memory = arguments.next().and_then(|memory| memory.to_str()?.parse().ok()).unwrap_or(0);
    Some(if work(memory).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
