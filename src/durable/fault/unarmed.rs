//! Changes of the disk without fault points.

use std::io;
use std::path::Path;

use crate::durable::{DurableError, IoContext};

/// Makes a change of the disk that has a result.
pub(in crate::durable) fn make<T>(
    operation: &'static str,
    path: &Path,
    change: impl FnOnce() -> io::Result<T>,
) -> Result<T, DurableError> {
    change().on(operation, path)
}

/// Makes a change of the disk.
pub(in crate::durable) fn change(
    operation: &'static str,
    path: &Path,
    change: impl FnOnce() -> io::Result<()>,
) -> Result<(), DurableError> {
    make(operation, path, change)
}

/// Writes `bytes` by `write`.
pub(in crate::durable) fn write(
    path: &Path,
    bytes: &[u8],
    write: impl FnOnce(&[u8]) -> io::Result<()>,
) -> Result<(), DurableError> {
    make("write", path, || write(bytes))
}
