//! Headers of a disk, read by a worker.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Cancel;
use super::error::cut;
use super::worker::{Frame, Outcome, Process, ReadError, RefusedDisk, Request, Worker, WorkerError};
use crate::durable::{DurableError, IoContext};
use crate::eci::{DiskHeader, DiskImage, UnsafeDisk};
use crate::failure::{Classify, Kind, Retry};

/// Time after which a worker that reads headers is killed, whatever it says of itself: they are a few KiB.
const MAX_TIME: Duration = Duration::from_secs(600);

/// Headers of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskReport {
    /// The formats that its first and last bytes belong to.
    pub header: DiskHeader,
    /// Facts of the image, or the reason for refusing it.
    pub image: Result<DiskImage, UnsafeDisk>,
}

/// Reasons for not knowing the headers of a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskReadError {
    /// The disk's file cannot be read.
    #[error(transparent)]
    Disk(#[from] DurableError),
    /// The worker that reads it failed.
    #[error("the disk {} cannot be checked", .path.display())]
    Worker {
        /// The disk's file.
        path: PathBuf,
        /// The failure.
        #[source]
        source: WorkerError,
    },
}

impl Classify for DiskReadError {
    fn kind(&self) -> Kind {
        match self {
            Self::Disk(error) => error.kind(),
            Self::Worker { source, .. } => source.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Disk(error) => error.retry(),
            Self::Worker { source, .. } => source.retry(),
        }
    }
}

/// Reads the headers of the disk in the file `path`. Blocks.
pub fn read_disk(worker: &Worker, path: &Path) -> Result<DiskReport, DiskReadError> {
    let file = File::open(path).on("open", path)?;
    let unreadable = |error| DiskReadError::Disk(DurableError::new("read", path, error));
    match outcome(worker, file) {
        Ok(Outcome::Disk { header, image }) => {
            let refusal = |it: RefusedDisk| UnsafeDisk::Reported {
                text: cut(&it.text),
                named_file: it.named_file.as_deref().map(cut),
            };
            Ok(DiskReport { header, image: image.map_err(refusal) })
        }
        Ok(Outcome::Unreadable(errno)) => Err(unreadable(io::Error::from_raw_os_error(errno))),
        Ok(_) => Err(DiskReadError::Worker { path: path.to_owned(), source: other_question() }),
        Err(ReadError::Worker(source)) => Err(DiskReadError::Worker { path: path.to_owned(), source }),
        Err(ReadError::Cancelled) => Err(unreadable(io::ErrorKind::Interrupted.into())),
    }
}

fn outcome(worker: &Worker, file: File) -> Result<Outcome, ReadError> {
    let started_at = Instant::now();
    let mut process = Process::start(worker, file, &Request::Disk, 0, &Cancel::default())?;
    let mut buffer = Vec::new();
    loop {
        match process.read(&mut buffer)? {
            Frame::Alive if started_at.elapsed() < MAX_TIME => {}
            Frame::Alive => return Err(WorkerError::Stalled(MAX_TIME).into()),
            Frame::Outcome(json) => {
                return serde_json::from_slice(json)
                    .map_err(|_| WorkerError::Malformed("its outcome is not one").into());
            }
            _ => return Err(other_question().into()),
        }
    }
}

fn other_question() -> WorkerError {
    WorkerError::Malformed("it answers another question")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_from_a_worker_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, "raw").unwrap();
        let long = Worker::pretending(|_, channel| {
            let refusal = RefusedDisk { text: "x".repeat(100_000), named_file: Some("extents".to_owned()) };
            let header = DiskHeader::read(b"raw", b"raw");
            channel.request()?;
            channel.send(&Frame::Outcome(&serde_json::to_vec(&Outcome::Disk { header, image: Err(refusal) })?))?;
            channel.request().map(drop)
        });
        let refusal = read_disk(&long, &path).unwrap().image.unwrap_err();
        assert!(refusal.named_file() == Some("extents") && refusal.to_string() == "x".repeat(1024), "{refusal}");
        assert!(read_disk(&Worker::unconfined(), &path).unwrap().image.is_ok());
    }
}
