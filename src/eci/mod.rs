//! The edge container image: how an OCI manifest says kernel, initrd and disks. No I/O.
//!
//! The format is that of lf-edge/edge-containers; where its documents and its code differ, both are read.

mod artifact;
mod disk_header;
mod disk_image;
mod file_name;
mod format;
mod label;
pub mod media_type;
mod path;
mod role;
mod tar_header;

pub use artifact::{Artifact, ArtifactError, File, Source};
pub use disk_header::{DISK_HEAD_BYTES, DISK_TAIL_BYTES, DiskCheck, DiskHeader, DiskMismatch};
pub use disk_image::{BACKING_FILE, DiskBytes, DiskImage, DiskImageError, UnsafeDisk};
pub use file_name::{FileName, FileNameError, OVERLAY};
pub use format::DiskFormat;
pub use label::LABEL_PREFIX;
pub use path::{ImagePath, ImagePathError, LinkError};
pub use role::Role;
pub use tar_header::{TAR_BLOCK, TarHeader};

/// The annotation that holds a file's role.
pub const ROLE: &str = "org.lfedge.eci.role";
/// The annotation that holds a file's media type in the artifacts format.
pub const MEDIA_TYPE: &str = "org.lfedge.eci.mediaType";
