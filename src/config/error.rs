//! Errors of the configuration.

use std::io;
use std::path::PathBuf;

use super::DocumentError;
use crate::failure::{Classify, Kind, Retry};

/// An error that leaves no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The command runs as root, and another user can write the file, or the directory that it is in.
    #[error(
        "{} can be written by others than root (it belongs to user {owner}, mode {mode:04o}), and is not obeyed as \
         root: chown root and chmod go-w it, or remove it",
        .path.display()
    )]
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// A file says something wrong.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The files together say something wrong.
    #[error("{}: {key}: {message}", .file.display())]
    Check {
        /// The main file.
        file: PathBuf,
        /// The key.
        key: String,
        /// Fault of its value.
        message: String,
    },
}

impl Classify for ConfigError {
    fn kind(&self) -> Kind {
        Kind::ConfigInvalid
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }
}
