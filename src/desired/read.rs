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
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => DesiredError::Absent(path.to_owned()),
        _ => DesiredError::Read { path: path.to_owned(), source },
    };
    let mut bytes = Vec::new();
    open_file(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB")));
    }
    let sha256 = Digest::of(&bytes);
    let text = String::from_utf8(bytes)
        .map_err(|_| failed(io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8 text")))?;
    Ok(Reading { sha256, desired: parse(path, &text)? })
}
