//! Reading the file: its bytes, capped, and what they say.

use std::io::{self, Read};
use std::path::Path;

use super::{DesiredError, DesiredState, parse};
use crate::durable::open_file;
use crate::oci::Digest;

/// Size limit of a desired-state file, in bytes: more than 256 workloads need.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A desired state and the digest of the text that said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Digest of the file's bytes.
    pub sha256: Digest,
    /// What they say.
    pub desired: DesiredState,
}

/// Reads `path` as a whole or not at all. Blocks.
pub fn read(path: &Path) -> Result<Reading, DesiredError> {
    Reading::of(path, &read_bytes(path)?)
}

/// The bytes of `path`, not yet parsed. Blocks.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, DesiredError> {
    let mut bytes = Vec::new();
    let read = open_file(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|source| unreadable(path, source))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(unreadable(path, io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB")));
    }
    Ok(bytes)
}

impl Reading {
    /// Parses the bytes of `path`.
    pub fn of(path: &Path, bytes: &[u8]) -> Result<Self, DesiredError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| unreadable(path, io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8 text")))?;
        Ok(Self { sha256: Digest::of(bytes), desired: parse(path, text)? })
    }
}

fn unreadable(path: &Path, source: io::Error) -> DesiredError {
    match source.kind() {
        io::ErrorKind::NotFound => DesiredError::Absent(path.to_owned()),
        _ => DesiredError::Read { path: path.to_owned(), source },
    }
}
