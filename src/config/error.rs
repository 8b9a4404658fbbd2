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
    #[error("{}{}: {key}: {message}", .file.display(), place(.at.as_ref()))]
    Check {
        /// The file that sets the key; the main file if that is not known.
        file: PathBuf,
        /// Line and column of the key there.
        at: Option<(usize, usize)>,
        /// The key.
        key: String,
        /// Fault of its value.
        message: String,
    },
}

impl ConfigError {
    /// The same error once more; an I/O error keeps its kind and its text.
    pub(super) fn copied(&self) -> Self {
        match self {
            Self::Read { path, source } => {
                let source = match source.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(source.kind(), source.to_string()),
                };
                Self::Read { path: path.clone(), source }
            }
            Self::Writable { path, owner, mode } => Self::Writable { path: path.clone(), owner: *owner, mode: *mode },
            Self::Document(error) => Self::Document(error.clone()),
            Self::Check { file, at, key, message } => {
                Self::Check { file: file.clone(), at: *at, key: key.clone(), message: message.clone() }
            }
        }
    }
}

fn place(at: Option<&(usize, usize)>) -> String {
    at.map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default()
}

impl Classify for ConfigError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Kind::Forbidden,
            _ => Kind::ConfigInvalid,
        }
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }
}
