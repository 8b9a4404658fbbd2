//! Changes of the disk with fault points.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;

use crate::durable::{DurableError, IoContext};

/// The variable whose value is the socket's path.
const ARMED_BY: &str = "ECI_FAULT_POINTS";

/// What is to become of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Go,
    Skip,
    Short,
}

/// Makes a change of the disk that has a result.
pub(in crate::durable) fn make<T>(
    operation: &'static str,
    path: &Path,
    change: impl FnOnce() -> io::Result<T>,
) -> Result<T, DurableError> {
    let mut control = Control::take();
    let made = match control.ask("before", operation, path) {
        Ok(Verdict::Short) => Err(Errno::ENOSPC.into()),
        Ok(_) => change(),
        Err(error) => Err(error),
    };
    control.after(operation, path, made)
}

/// Makes a change of the disk, or leaves it out.
pub(in crate::durable) fn change(
    operation: &'static str,
    path: &Path,
    change: impl FnOnce() -> io::Result<()>,
) -> Result<(), DurableError> {
    let mut control = Control::take();
    let made = match control.ask("before", operation, path) {
        Ok(Verdict::Go) => change(),
        Ok(Verdict::Skip) => Ok(()),
        Ok(Verdict::Short) => Err(Errno::ENOSPC.into()),
        Err(error) => Err(error),
    };
    control.after(operation, path, made)
}

/// Writes `bytes` by `write`, or half of them.
pub(in crate::durable) fn write(
    path: &Path,
    bytes: &[u8],
    write: impl FnOnce(&[u8]) -> io::Result<()>,
) -> Result<(), DurableError> {
    let mut control = Control::take();
    let written = match control.ask("before", "write", path) {
        Ok(Verdict::Go) => write(bytes),
        Ok(Verdict::Skip) => Ok(()),
        Ok(Verdict::Short) => write(bytes.get(..bytes.len() / 2).unwrap_or_default()).and(Err(Errno::ENOSPC.into())),
        Err(error) => Err(error),
    };
    control.after("write", path, written)
}

/// The connection to whoever armed the points, held from before a change until after it; none where nobody did.
struct Control(Option<MutexGuard<'static, BufReader<UnixStream>>>);

impl Control {
    fn take() -> Self {
        static CONTROL: OnceLock<Option<Mutex<BufReader<UnixStream>>>> = OnceLock::new();
        let control = CONTROL.get_or_init(|| {
            let socket = std::env::var_os(ARMED_BY)?;
            UnixStream::connect(socket).ok().map(|stream| Mutex::new(BufReader::new(stream)))
        });
        Self(control.as_ref().map(|control| control.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn ask(&mut self, when: &str, operation: &str, path: &Path) -> io::Result<Verdict> {
        let Some(control) = &mut self.0 else { return Ok(Verdict::Go) };
        let mut answer = String::new();
        let told = writeln!(control.get_mut(), "{when}\t{operation}\t{}", path.display());
        // Whoever armed the points and has gone has no more wishes.
        if told.and_then(|()| control.read_line(&mut answer)).is_err() {
            return Ok(Verdict::Go);
        }
        verdict(answer.trim())
    }

    fn after<T>(&mut self, operation: &'static str, path: &Path, made: io::Result<T>) -> Result<T, DurableError> {
        let made = made.on(operation, path)?;
        // What was made cannot be taken back: an answer other than `go` means nothing here.
        let _ = self.ask("after", operation, path);
        Ok(made)
    }
}

fn verdict(answer: &str) -> io::Result<Verdict> {
    match answer {
        "skip" => Ok(Verdict::Skip),
        "short" => Ok(Verdict::Short),
        answer => answer.parse().map_or(Ok(Verdict::Go), |errno| Err(io::Error::from_raw_os_error(errno))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_verdict_or_an_error() {
        for (answer, expected) in
            [("go", Verdict::Go), ("", Verdict::Go), ("skip", Verdict::Skip), ("short", Verdict::Short)]
        {
            assert_eq!(verdict(answer).unwrap(), expected);
        }
        assert_eq!(verdict("28").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
