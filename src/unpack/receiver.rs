//! Files that a worker sends, written to the cache's directory of partial files. Nothing in a frame is taken for true:
//! a worker that bytes have taken over can spoil what comes out of those bytes, and nothing else.

use std::collections::BTreeMap;

use super::allowance::Allowance;
use super::memory::Grant;
use super::worker::{Frame, MAX_FILES, Outcome, Process, ReadError, WorkerError};
use super::{Control, Limits};
use crate::cache::{Cache, Staged};
use crate::durable::DurableError;
use crate::oci::{Descriptor, Digest};

/// Factor of the bound on a layer's bytes, in terms of the worker's own. A worker may read an archive twice, and its
/// blocks of zeros begin elsewhere: one block of the worker's that is not zeros may touch two of the agent's.
const SLACK: u64 = 4;
/// Zeros that are appended at once, in bytes; they become holes.
const ZEROS_AT_ONCE: usize = 128 * 1024;

/// Reception of what one worker takes out of one layer.
pub(super) struct Receiver<'a> {
    cache: &'a Cache,
    layer: Digest,
    limits: Limits,
    control: &'a Control,
    /// Most files that may wait for the end.
    most: usize,
    /// Complete files, by their numbers.
    files: BTreeMap<u32, Staged>,
    open: Option<Incoming>,
    /// Files that were begun.
    begun: u32,
    /// Bytes that may still come.
    allowance: Allowance,
    /// Memory that the worker may use.
    grant: Option<Grant>,
}

/// A file of which more may come.
struct Incoming {
    number: u32,
    file: Staged,
    /// Bytes that may still come of it.
    left: u64,
}

/// Reasons for which nothing is received.
pub(super) enum ReceiveError {
    /// The worker failed, or the work was cancelled.
    Read(ReadError),
    /// The disk failed.
    Disk(DurableError),
}

impl From<ReadError> for ReceiveError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<DurableError> for ReceiveError {
    fn from(error: DurableError) -> Self {
        Self::Disk(error)
    }
}

impl<'a> Receiver<'a> {
    /// Receives for `wanted` wants.
    pub(super) fn new(
        cache: &'a Cache,
        layer: &Descriptor,
        wanted: usize,
        limits: Limits,
        control: &'a Control,
    ) -> Self {
        Self {
            cache,
            layer: layer.digest,
            limits,
            control,
            most: wanted + 1,
            files: BTreeMap::new(),
            open: None,
            begun: 0,
            allowance: Allowance::new(layer.size).times(SLACK),
            grant: None,
        }
    }

    /// Receives until the outcome. The files are complete and have no names yet.
    pub(super) fn receive(mut self, process: &mut Process) -> Result<(Outcome, BTreeMap<u32, Staged>), ReceiveError> {
        let mut buffer = Vec::new();
        loop {
            match process.read(&mut buffer)? {
                Frame::Alive => {}
                Frame::Memory(bytes) => self.grant(process, bytes)?,
                Frame::File(number) => self.begin(number)?,
                Frame::Piece(bytes) => self.append(bytes)?,
                Frame::Zeros(count) => self.append_zeros(count)?,
                Frame::Discard(number) => {
                    self.close();
                    self.files.remove(&number);
                }
                Frame::Outcome(json) => {
                    let outcome = serde_json::from_slice(json).map_err(|_| malformed("its outcome is not one"))?;
                    self.close();
                    return Ok((outcome, self.files));
                }
                Frame::Ready(_) | Frame::Unconfined(_) => return Err(malformed("it begins twice")),
            }
        }
    }

    fn grant(&mut self, process: &mut Process, bytes: u64) -> Result<(), ReceiveError> {
        // First of all: to hold memory while waiting for more could be to wait for ever.
        self.grant = None;
        let Control { memory, cancel, .. } = self.control;
        self.grant = Some(memory.acquire(bytes, self.limits.memory, cancel).map_err(|_| {
            if cancel.is_cancelled() { ReadError::Cancelled.into() } else { malformed("it asks for too much memory") }
        })?);
        Ok(process.grant(bytes)?)
    }

    fn begin(&mut self, number: u32) -> Result<(), ReceiveError> {
        self.close();
        self.begun += 1;
        if self.begun > MAX_FILES || self.files.len() >= self.most || self.files.contains_key(&number) {
            return Err(malformed("it sends more files than are wanted"));
        }
        let file = Staged::create(self.cache, &format!("{}.{number}", self.layer.hex()))?;
        self.open = Some(Incoming { number, file, left: self.limits.max_file_bytes });
        Ok(())
    }

    /// Puts the file that is complete with the others.
    fn close(&mut self) {
        if let Some(Incoming { number, file, .. }) = self.open.take() {
            self.files.insert(number, file);
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        if !self.allowance.take(bytes) {
            return Err(malformed("it sends more than its layer may become"));
        }
        self.open.as_mut().ok_or_else(|| malformed("it sends bytes of no file"))?.append(bytes)
    }

    fn append_zeros(&mut self, mut count: u64) -> Result<(), ReceiveError> {
        // Not a constant, which would be a part of the program's file.
        let zeros = vec![0; ZEROS_AT_ONCE];
        while count > 0 {
            let piece = zeros.get(..usize::try_from(count).unwrap_or(usize::MAX)).unwrap_or(&zeros);
            self.append(piece)?;
            count -= piece.len() as u64;
            if self.control.cancel.is_cancelled() {
                return Err(ReadError::Cancelled.into());
            }
        }
        Ok(())
    }
}

impl Incoming {
    fn append(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| malformed("it sends a larger file than is allowed"))?;
        Ok(self.file.append(bytes)?)
    }
}

fn malformed(reason: &'static str) -> ReceiveError {
    ReadError::from(WorkerError::Malformed(reason)).into()
}

#[cfg(test)]
mod tests {
    use super::super::worker::{Channel, Worker};
    use super::super::{Cancel, Memory, Record, UnpackError, Want, unpack, unpack_with};
    use super::*;
    use crate::failure::{Classify, Kind, Retry};
    use std::fs::File;
    use std::io;
    use std::time::{Duration, Instant};

    const LIMITS: Limits = Limits::new(1 << 20);
    const FOUND: &[u8] = br#"{"found":[[0,{"file":{"sent":1}}]]}"#;

    struct Fixture {
        dir: tempfile::TempDir,
        cache: Cache,
        layer: Descriptor,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(dir.path()).unwrap();
            let digest = cache.insert(b"layer").unwrap();
            Self { dir, cache, layer: Descriptor::new("x", digest, 5) }
        }

        fn unpack(&self, worker: Worker, cancel: Cancel) -> Result<Record, UnpackError> {
            let control = Control { memory: Memory::default(), cancel, worker };
            unpack_with(&self.cache, &self.layer, &[Want::Only], LIMITS, &control)
        }

        /// The worker's failure is an error like others: nothing is left, nothing is noted, and the next one works.
        fn fails(&self, worker: Worker) -> String {
            let error = self.unpack(worker, Cancel::default()).unwrap_err();
            assert_eq!((error.kind(), error.retry()), (Kind::WorkerFailed, Retry::Later), "{error:?}");
            self.is_as_before();
            let text = crate::failure::full_text(&error);
            assert!(text.starts_with(&format!("layer {} is not unpacked: ", self.layer.digest)), "{text}");
            text
        }

        fn is_as_before(&self) {
            assert_eq!(std::fs::read_dir(self.dir.path().join("partial")).unwrap().count(), 0);
            assert_eq!(self.cache.usage().unwrap().blobs, 1);
            assert!(Record::peek(&self.cache, &self.layer.digest).fault(&[Want::Only], LIMITS).is_none());
            let other = self.cache.insert(b"other").unwrap();
            unpack(&self.cache, &Descriptor::new("x", other, 5), &[Want::Only], LIMITS).unwrap();
            self.cache.remove(&other).unwrap();
        }
    }

    fn shell(script: &str) -> Worker {
        Worker::program("/bin/sh", &["-c", script, "worker"])
    }

    /// A worker that sends these frames whatever is asked of it.
    macro_rules! liar {
        ($($frame:expr),* $(,)?) => {
            Worker::pretending(|_: File, channel: Channel| -> io::Result<()> {
                channel.request()?;
                $(channel.send(&$frame)?;)*
                // Until the agent has read that.
                channel.request().map(drop)
            })
        };
    }

    #[test]
    fn a_worker_that_tells_the_truth_is_believed() {
        let f = Fixture::new();
        let found = f.unpack(
            liar![Frame::File(1), Frame::Piece(b"a"), Frame::Zeros(2), Frame::Outcome(FOUND)],
            Cancel::default(),
        );
        assert!(found.is_ok());
        assert_eq!(f.cache.read(&Digest::of(b"a\0\0"), 10).unwrap(), b"a\0\0", "hashed by the agent");
    }

    #[test]
    fn lies_are_errors_of_their_layer() {
        let f = Fixture::new();
        for (worker, told) in [
            (liar![Frame::Piece(b"a")], "no file"),
            (liar![Frame::File(1), Frame::Zeros((1 << 20) + 1)], "larger file"),
            (liar![Frame::File(1), Frame::Zeros(u64::MAX)], "larger file"),
            (liar![Frame::File(1), Frame::File(2), Frame::File(3)], "more files"),
            (liar![Frame::File(1), Frame::File(1)], "more files"),
            (liar![Frame::Outcome(FOUND)], "did not send"),
            (liar![Frame::Outcome(b"nonsense")], "outcome"),
            (liar![Frame::Outcome(br#"{"found":[[1,"gone"]]}"#)], "not wanted"),
            (liar![Frame::Outcome(br#"{"found":[[0,"gone"]]}"#)], "elsewhere"),
            (liar![Frame::Outcome(br#"{"found":[[0,{"file":"layer"}],[0,{"file":"layer"}]]}"#)], "not wanted"),
            (liar![Frame::Memory(u64::MAX)], "too much memory"),
            (liar![Frame::Ready(0)], "twice"),
        ] {
            let text = f.fails(worker);
            assert!(text.contains(told), "{told}: {text}");
        }
    }

    #[test]
    fn a_text_of_a_worker_is_cut() {
        let f = Fixture::new();
        let long = Worker::pretending(|_, channel| {
            let json = format!(r#"{{"fault":{{"damaged":"{}"}}}}"#, "x".repeat(100_000));
            channel.send(&Frame::Outcome(json.as_bytes()))?;
            channel.request().and_then(|_| channel.request()).map(drop)
        });
        let error = f.unpack(long, Cancel::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Layer { .. }) && error.to_string().len() < 2000, "{error}");
    }

    #[test]
    fn a_worker_that_ends_is_an_error_that_says_how() {
        let f = Fixture::new();
        for (script, told) in [
            ("kill -KILL $$", "was ended by signal SIGKILL, as the kernel does when memory runs out"),
            ("kill -SYS $$", "was ended by signal SIGSYS"),
            (
                "echo memory allocation of 7 bytes failed >&2; kill -ABRT $$",
                "SIGABRT: memory allocation of 7 bytes failed",
            ),
            ("exit 3", "exited with code 3"),
            ("printf 'nonsense'; exec sleep 1000", "unknown kind"),
            (r"printf '\001\377\377\377\377'; exec sleep 1000", "impossible length"),
            (r"printf '\003\000\000\000\000'; exec sleep 1000", "before it is confined"),
        ] {
            let text = f.fails(shell(script));
            assert!(text.contains(told), "{script}: {text}");
        }
        let text = f.fails(Worker::program("/nonexistent/eci", &[]));
        assert!(text.contains("cannot be started"), "{text}");
    }

    #[test]
    fn a_worker_that_is_not_confined_does_nothing() {
        let f = Fixture::new();
        let error = f.unpack(shell(r"printf '\002\006\000\000\000no bpf'"), Cancel::default()).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (Kind::WorkerUnconfined, Retry::Never));
        assert!(crate::failure::full_text(&error).contains("(no bpf)"), "{error:?}");
        f.is_as_before();
    }

    #[test]
    fn a_worker_that_stalls_is_killed() {
        let f = Fixture::new();
        let text = f.fails(shell("exec sleep 1000").with_max_idle(Duration::from_millis(200)));
        assert!(text.contains("made no progress"), "{text}");
        // One that reports progress is not.
        let alive = Worker::pretending(|_, channel| {
            let (begun, idle) = (Instant::now(), Duration::from_millis(500));
            while begun.elapsed() < 3 * idle {
                channel.send(&Frame::Alive)?;
                std::thread::yield_now();
            }
            channel.send(&Frame::File(1))?;
            channel.send(&Frame::Outcome(FOUND))?;
            channel.request().and_then(|_| channel.request()).map(drop)
        });
        f.unpack(alive.with_max_idle(Duration::from_millis(500)), Cancel::default()).unwrap();
    }

    #[test]
    fn a_worker_is_killed_when_nobody_waits() {
        let f = Fixture::new();
        let cancel = Cancel::default();
        std::thread::scope(|scope| {
            let unpacking = scope.spawn(|| f.unpack(shell("exec sleep 1000"), cancel.clone()).map(drop));
            drop(cancel.on_drop());
            assert!(matches!(unpacking.join().unwrap(), Err(UnpackError::Cancelled)));
        });
        f.is_as_before();
    }
}
