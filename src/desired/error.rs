//! Why a desired-state file is not accepted.

use std::io;
use std::path::PathBuf;

use crate::config::DocumentError;
use crate::failure::{Classify, Kind, Retry};

/// Why a desired-state file is not accepted. What was accepted last stays in force.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    /// There is no such file.
    #[error(
        "the desired-state file {} does not exist: name one that does, or write one, such as image = \
         \"registry.example.com/edge/nginx:1.4.2\"",
        .0.display()
    )]
    Absent(PathBuf),
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file has nothing in it, as a file that is being written has at first.
    #[error("{} is empty: name an image, or write workloads = {{}} if nothing should run", .0.display())]
    Empty(PathBuf),
    /// The file says something wrong.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The file as a whole makes no sense.
    #[error("{}: {message}", .file.display())]
    Whole {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl Classify for DesiredError {
    fn kind(&self) -> Kind {
        match self {
            Self::Absent(_) => Kind::DesiredAbsent,
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Kind::Forbidden,
            Self::Read { .. } | Self::Empty(_) | Self::Document(_) | Self::Whole { .. } => Kind::DesiredInvalid,
        }
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }
}
