//! Queue of log lines for stderr. A thread writes them, so that a reader that has stopped reading blocks that thread alone.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait to be written; lines beyond that are dropped.
const MAX_BYTES: usize = 256 * 1024;
/// The longest wait for a line to be written, once until the queue is empty again. Within it, a line is in the log before
/// the program goes on to what follows from it.
const PATIENCE: Duration = Duration::from_millis(200);
/// Pause before the next write if stderr is non-blocking and full.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// The lines that wait to be written. Clones are the same queue.
#[derive(Clone, Default)]
pub(super) struct LogQueue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Default)]
struct Pending {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of all lines, the one that is being written included.
    bytes: usize,
    /// Lines dropped since the last report of that.
    dropped: u64,
    /// Lines added and lines written since the start.
    added: u64,
    written: u64,
    /// True from a wait in vain until the queue is empty: nobody waits for a reader that has stopped reading.
    is_stalled: bool,
}

impl LogQueue {
    /// Starts the thread that writes to `out`.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Self::default();
        let writing = queue.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writing.write_to(out))?;
        Ok(queue)
    }

    /// Adds a line and waits until it is written, unless the reader has stalled. Drops the line if the queue is full.
    fn push(&self, line: &[u8]) {
        let mut pending = self.pending();
        if pending.bytes + line.len() > MAX_BYTES {
            pending.dropped += 1;
            return;
        }
        self.add(&mut pending, line);
        if !pending.is_stalled {
            let ticket = pending.added;
            let waited = self.0.changed.wait_timeout_while(pending, PATIENCE, |it| it.written < ticket);
            let (mut pending, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            pending.is_stalled |= timeout.timed_out();
        }
    }

    /// Adds a last line, even if the queue is full.
    pub(super) fn push_last(&self, line: &[u8]) {
        self.add(&mut self.pending(), line);
    }

    fn add(&self, pending: &mut Pending, line: &[u8]) {
        pending.bytes += line.len();
        pending.added += 1;
        pending.lines.push_back(line.to_vec());
        self.0.changed.notify_all();
    }

    /// Waits until all lines are written, and no longer than `within`.
    pub(super) fn flush(&self, within: Duration) {
        // A poisoned lock is no reason to wait, and a timeout no error.
        let _ = self.0.changed.wait_timeout_while(self.pending(), within, |pending| pending.bytes > 0);
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut out: impl Write) {
        loop {
            let waiting = self.0.changed.wait_while(self.pending(), |pending| pending.lines.is_empty());
            let Some(line) = waiting.unwrap_or_else(PoisonError::into_inner).lines.pop_front() else { continue };
            let is_written = write_line(&mut out, &line);
            let mut pending = self.pending();
            pending.bytes -= line.len();
            pending.written += 1;
            pending.is_stalled &= pending.bytes > 0;
            // Reported once there is room, in the form of all lines.
            let is_read = is_written && pending.bytes < MAX_BYTES / 2;
            let dropped = if is_read { std::mem::take(&mut pending.dropped) } else { 0 };
            drop(pending);
            self.0.changed.notify_all();
            if dropped > 0 {
                // This thread writes the report itself, so it cannot wait for it.
                self.pending().is_stalled = true;
                tracing::warn!(lines = dropped, "log lines were dropped: the reader of the log was too slow");
            }
        }
    }
}

/// Writes a line, and returns false if it is lost: there is no other place to report that.
fn write_line(out: &mut impl Write, mut line: &[u8]) -> bool {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return false,
            Ok(count) => line = line.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(TRY_AGAIN),
            Err(_) => return false,
        }
    }
    true
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Writer of one line, by one call.
pub(super) struct Line<'a>(&'a LogQueue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn lines_come_in_order_and_flush_waits_for_them() {
        let (reader, writer) = io::pipe().unwrap();
        let queue = LogQueue::start(writer).unwrap();
        for n in 0..100 {
            queue.push(format!("{n}\n").as_bytes());
        }
        queue.flush(LONG);
        assert_eq!(queue.pending().bytes, 0);
        let lines: Vec<_> = BufReader::new(reader).lines().take(100).map(Result::unwrap).collect();
        assert!(lines.iter().enumerate().all(|(n, line)| *line == n.to_string()), "{lines:?}");
    }

    #[test]
    fn a_stalled_reader_does_not_block() {
        let (reader, writer) = io::pipe().unwrap();
        let queue = LogQueue::start(writer).unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        for _ in 0..2000 {
            queue.push(&line);
        }
        assert!(queue.pending().bytes <= MAX_BYTES && queue.pending().dropped > 1000);
        queue.push_last(b"the end\n");
        let begun = Instant::now();
        queue.flush(Duration::from_millis(50));
        assert!(begun.elapsed() < LONG);
        // Once it reads again, what waited comes, the last line last; and that lines were dropped is not to be said again.
        let last = BufReader::new(reader).lines().map(Result::unwrap).find(|line| line == "the end");
        assert!(last.is_some());
        queue.flush(LONG);
        assert_eq!(queue.pending().dropped, 0);
    }

    #[test]
    fn a_reader_that_has_gone_does_not_block() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let queue = LogQueue::start(writer).unwrap();
        for _ in 0..2000 {
            queue.push(&[b'x'; 1024]);
        }
        queue.flush(LONG);
        assert_eq!(queue.pending().bytes, 0);
    }
}
