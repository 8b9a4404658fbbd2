//! Requests of the agent to a worker, and what the worker answers at the end.

use serde::{Deserialize, Serialize};

use super::super::file_ref::FileRef;
use super::super::{Fault, Finding, Limits, Want};
use crate::eci::{DiskHeader, DiskImage};

/// The work of one worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum Request {
    /// Take files out of a layer.
    Layer {
        /// The layer's media type.
        media_type: String,
        wants: Vec<Want>,
        limits: Limits,
    },
    /// Read the headers of a disk.
    Disk,
}

/// Result of the work.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum Outcome {
    /// The findings, each with the place of what was wanted in the request.
    Found(Vec<(usize, Finding<FileRef>)>),
    /// The layer is at fault.
    Fault(Fault),
    /// The headers of a disk.
    Disk {
        /// The formats that its first and last bytes belong to.
        header: DiskHeader,
        /// Facts of the image, or the reason for refusing it.
        image: Result<DiskImage, RefusedDisk>,
    },
    /// The bytes cannot be read: the operating system's error.
    Unreadable(i32),
}

/// Reason for refusing a disk image.
#[derive(Debug, Deserialize, Serialize)]
pub(in crate::unpack) struct RefusedDisk {
    /// The reason in words.
    pub(in crate::unpack) text: String,
    /// The file besides itself that the image needs.
    pub(in crate::unpack) named_file: Option<String>,
}
