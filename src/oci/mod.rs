//! The values of the OCI specifications and their parsing. No I/O: parsers take text or bytes.
//!
//! Terms are those of the [image specification](https://github.com/opencontainers/image-spec) 1.1.

mod descriptor;
mod digest;
mod document;
mod entry_name;
mod image_config;
mod index;
mod known_platform;
mod lenient;
pub mod media_type;
mod platform;
mod reference;

pub use descriptor::Descriptor;
pub use digest::{Digest, DigestError, Hasher};
pub use document::{Document, DocumentError, MAX_DOCUMENT_BYTES, Manifest};
pub use entry_name::{DEFAULT_TAG, is_tag_of};
pub use image_config::{ContainerConfig, ImageConfig, RootFs};
pub use index::{Choice, EntryFault, Index, UnsupportedEntry};
pub use platform::{Fit, Platform, PlatformError};
pub use reference::{
    LayoutReference, Reference, ReferenceError, RegistryReference, host_name, is_docker_hub, is_repository, is_tag,
};

/// The annotation of a manifest in an image layout's index that says what it is called.
pub const REF_NAME: &str = oci_distribution::annotations::ORG_OPENCONTAINERS_IMAGE_REF_NAME;
/// The annotation of a descriptor that holds its file name.
pub const TITLE: &str = oci_distribution::annotations::ORG_OPENCONTAINERS_IMAGE_TITLE;
