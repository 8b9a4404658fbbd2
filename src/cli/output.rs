//! Writing to stdout.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Kind, Retry};
use crate::printable::{escaped, one_line};

/// Writes text for whoever reads stdout, characters that cannot be seen escaped. A reader that has gone, as `head` does, is
/// no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    print_on(text).map(|_| ())
}

/// Prints bytes unchanged. As for [`print`], a reader that has gone is not an error.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    write_out(bytes).map(|_| ())
}

/// The same for a command that goes on: whether anybody still reads.
pub(super) fn print_on(text: &str) -> Result<bool, Failure> {
    write_out(escaped(text).as_bytes())
}

fn write_out(bytes: &[u8]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(Kind::Io, format!("cannot write to stdout: {error}"), Retry::Later)),
    }
}

/// Watches the reader of stdout, for a command that waits between its lines: a write would notice only with the next
/// line that the reader has gone.
pub(super) struct Reader(CancellationToken);

impl Reader {
    /// Starts to watch stdout. A file never loses its reader.
    pub(super) fn of_stdout() -> Self {
        let gone = CancellationToken::new();
        let told = gone.clone();
        // If there is no thread, the next write fails. The thread ends with the process.
        let _ = std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
            if has_lost_reader() {
                told.cancel();
            }
        });
        Self(gone)
    }

    /// Waits until stdout has lost its reader.
    pub(super) async fn gone(&self) {
        self.0.cancelled().await;
    }
}

/// Waits until stdout has lost its reader; false if the kernel cannot tell.
fn has_lost_reader() -> bool {
    let out = io::stdout();
    // The kernel reports errors even if no event is asked for.
    let mut watched = [PollFd::new(out.as_fd(), PollFlags::empty())];
    loop {
        match poll(&mut watched, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(_) => return false,
            Ok(_) => {
                let [found] = &watched;
                let found = found.revents().unwrap_or(PollFlags::empty());
                return found.intersects(PollFlags::POLLERR | PollFlags::POLLHUP);
            }
        }
    }
}

/// A JSON document and a line break.
pub(super) fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::internal(error.to_string()))?;
    Ok(text + "\n")
}

/// A JSON document in one line, and a line break.
pub(super) fn json_line(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::internal(error.to_string()))?;
    Ok(text + "\n")
}

/// So many of something: `1 blob`, `2 blobs`.
pub(super) fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// Text from elsewhere as one line, without its last line break.
pub(super) fn plain(text: &str) -> String {
    one_line(text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "blob")), ["0 blobs", "1 blob", "2 blobs"]);
    }

    #[test]
    fn control_characters_are_not_passed_on() {
        assert_eq!(plain("\u{1b}[2J\u{9b}1m caf\u{e9}\r\nnext\n"), "\u{fffd}[2J\u{fffd}1m caf\u{e9}\u{fffd} next");
    }
}
