//! Where bytes come from: registries that speak the OCI distribution API, and `oci:` directories.
//!
//! Nothing that a source says is trusted here or above: documents are checked against their digest before they are
//! handed on, blob streams are hashed by whoever writes them down.

mod auth;
mod challenge;
mod client;
mod credentials;
mod error;
mod host;
mod layout;
mod pool;
mod pulse;
mod scope;
mod session;
mod token;
mod upload;

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

pub use credentials::Login;
pub use error::RegistryError;
pub use layout::{LAYOUT_VERSION, LayoutFault, LayoutMarker, LayoutPart, LayoutSource};
pub use pool::Registries;
pub use session::ByteStream;
pub use upload::{Sent, Uploader};

use self::credentials::CredentialFiles;
use crate::oci::{Descriptor, Digest};

/// One image's source.
#[derive(Clone, Debug)]
pub enum Source {
    /// A repository in a registry.
    Registry(client::Repository),
    /// An image layout on disk.
    Layout(LayoutSource),
}

/// The bytes of a blob from `start` on.
pub struct BlobStream {
    /// Where in the blob the first byte stands: what was asked for, or 0 where the source knows no ranges.
    pub start: u64,
    /// The bytes, in pieces as they come.
    pub bytes: Pin<Box<dyn Stream<Item = Result<Bytes, RegistryError>> + Send>>,
}

impl Source {
    /// What the reference leads to now: one cheap request, or none where the reference names a digest.
    pub async fn resolve(&self) -> Result<Digest, RegistryError> {
        match self {
            Self::Registry(repository) => repository.resolve().await,
            Self::Layout(layout) => layout.resolve().await,
        }
    }

    /// The manifest or index that has `digest`, verified against it. At most
    /// [`MAX_DOCUMENT_BYTES`](crate::oci::MAX_DOCUMENT_BYTES) are read.
    pub async fn document(&self, digest: &Digest) -> Result<Bytes, RegistryError> {
        match self {
            Self::Registry(repository) => repository.document(digest).await,
            Self::Layout(layout) => layout.document(digest).await,
        }
    }

    /// The bytes of a blob from `offset`, which is less than its size. They are not verified.
    pub async fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobStream, RegistryError> {
        match self {
            Self::Registry(repository) => repository.blob(blob, offset).await,
            Self::Layout(layout) => layout.blob(blob, offset).await,
        }
    }
}
