//! Where bytes come from: registries that speak the OCI distribution API, and `oci:` directories.
//!
//! Nothing that a source says is trusted here or above: documents are checked against their digest before they are
//! handed on, blob streams are hashed by whoever writes them down.

mod answer;
mod attempts;
mod auth;
mod challenge;
mod client;
mod credentials;
mod error;
mod exchange;
mod follow;
mod helper;
mod host;
mod layout;
mod login;
mod login_check;
mod login_file;
mod no_proxy;
mod pool;
mod proxy;
mod pulse;
mod reason;
mod redirect;
mod redirect_filter;
mod retry_after;
mod route;
mod scope;
mod session;
mod standing;
mod tls;
mod token;
mod upload;
mod upload_answer;
mod warn_once;

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;

pub use attempts::Attempts;
pub use auth::config_json::Found;
pub use challenge::{Challenge, Realm};
pub use credentials::Caller;
pub use error::RegistryError;
pub use exchange::EXCHANGE_TARGET;
pub use layout::{LAYOUT_INDEX, LAYOUT_MARKER, LAYOUT_VERSION, LayoutFault, LayoutMarker, LayoutPart, LayoutSource};
pub use login::Login;
pub use login_check::{LoginCheck, check_login, scheme_of};
pub use login_file::{LoginError, LoginFile, LoginPlace, login_in_use};
pub use pool::Registries;
pub use retry_after::{MAX_RETRY_AFTER, parse_retry_after};
pub use route::Route;
pub use scope::Scope;
pub use session::ByteStream;
pub use standing::Standing;
pub use token::TokenAnswer;
pub use upload::{Sent, Uploader};
pub use upload_answer::{upload_held, upload_location};

use self::credentials::CredentialFiles;
use crate::oci::{Descriptor, Digest};

/// One image's source.
#[derive(Clone, Debug)]
pub enum Source {
    /// A repository in a registry, and in the registry's mirrors.
    Registry(Route),
    /// An image layout on disk.
    Layout(LayoutSource),
}

/// The bytes of a part of a blob.
pub struct BlobStream {
    /// Where in the blob they stand: what was asked for, or all of it where the source knows no ranges.
    pub part: Range<u64>,
    /// What is remembered of the mirror that they come from; none where they come from nobody that could be left out.
    pub mirror: Option<Arc<Standing>>,
    /// The bytes, in pieces as they come.
    pub bytes: Pin<Box<dyn Stream<Item = Result<Bytes, RegistryError>> + Send>>,
}

/// The result of resolving a reference.
#[derive(Clone, Debug)]
pub enum Resolved {
    /// A manifest or an index.
    One(Digest),
    /// A manifest or an index on the word of a mirror, which may be wrong about the tag.
    ByMirror(Digest, Arc<Standing>),
    /// Manifests or indexes that have one name in an image layout. The platform decides among them.
    SameName(Vec<Descriptor>),
}

impl Resolved {
    /// The digest, unless several images have the name.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::One(digest) | Self::ByMirror(digest, _) => Some(*digest),
            Self::SameName(_) => None,
        }
    }
}

impl Source {
    /// What the reference leads to now: one cheap request, or none where the reference names a digest.
    pub async fn resolve(&self) -> Result<Resolved, RegistryError> {
        match self {
            Self::Registry(route) => route.resolve().await,
            Self::Layout(layout) => layout.resolve().await,
        }
    }

    /// The same without any mirror.
    pub async fn resolve_at_origin(&self) -> Result<Resolved, RegistryError> {
        match self {
            Self::Registry(route) => Ok(Resolved::One(route.origin.resolve().await?)),
            Self::Layout(layout) => layout.resolve().await,
        }
    }

    /// The manifest or index that has `digest`, verified against it. At most
    /// [`MAX_DOCUMENT_BYTES`](crate::oci::MAX_DOCUMENT_BYTES) are read.
    pub async fn document(&self, digest: &Digest) -> Result<Bytes, RegistryError> {
        match self {
            Self::Registry(route) => route.document(digest).await,
            Self::Layout(layout) => layout.document(digest).await,
        }
    }

    /// The bytes of a blob in `part`, which is not empty and within it. They are not verified.
    pub async fn blob(&self, blob: &Descriptor, part: Range<u64>) -> Result<BlobStream, RegistryError> {
        match self {
            Self::Registry(route) => route.blob(blob, part).await,
            Self::Layout(layout) => layout.blob(blob, part).await,
        }
    }

    /// The error of a source that sends next to nothing of a blob.
    pub fn stalled(&self, blob: &Descriptor) -> RegistryError {
        RegistryError::stalled(&self.place(blob))
    }

    /// The error of a source whose answer ends before the part of the blob does.
    pub fn cut_short(&self, blob: &Descriptor) -> RegistryError {
        RegistryError::cut_short(&self.place(blob))
    }

    fn place(&self, blob: &Descriptor) -> String {
        match self {
            Self::Registry(route) => route.place(blob),
            Self::Layout(layout) => layout.blob_path(&blob.digest).display().to_string(),
        }
    }

    /// Whether several blobs come faster at a time than one after another, because each costs a round trip.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Registry(_))
    }

    /// Whether to ask somebody else for a blob, because `mirror`, or the registry itself where there is none, brings only so
    /// many bytes a second. The others are tried in their order; after the last, the fastest is taken up again.
    pub fn leave(&self, blob: &Descriptor, mirror: Option<&Arc<Standing>>, bytes_per_second: u64) -> bool {
        match self {
            Self::Registry(route) => route.leave(blob, mirror, bytes_per_second),
            Self::Layout(_) => false,
        }
    }

    /// The mirrors that may have brought what there is of a blob, where nobody remembers.
    pub fn suspects(&self, blob: &Descriptor) -> Vec<Arc<Standing>> {
        match self {
            Self::Registry(route) => route.suspects(blob),
            Self::Layout(_) => Vec::new(),
        }
    }

    /// Tells one place from another: a registry's host, a layout's directory.
    pub fn name(&self) -> String {
        match self {
            Self::Registry(route) => route.origin.reference.host.clone(),
            Self::Layout(layout) => layout.dir().display().to_string(),
        }
    }

    /// Whether it is worth asking for several parts of a blob at a time: not on a disk, and not of a registry that has been
    /// seen to get them wrong.
    pub fn does_parts(&self, blob: &Descriptor) -> bool {
        match self {
            Self::Registry(route) => route.does_parts(blob),
            Self::Layout(_) => false,
        }
    }
}
