//! Which manifest an index has for a platform, through the indexes that it leads to (image specification, "Image Index").

use std::future::Future;

use bytes::Bytes;

use super::TransferError;
use crate::oci::{
    Choice, Descriptor, Digest, Document, DocumentError, ImageConfig, Index, MAX_DOCUMENT_BYTES, Manifest, Platform,
};

/// As many indexes as lead one to another; two are common, more are a mistake or an attack.
const MAX_DEPTH: usize = 4;
/// As many documents as are read for one image.
const MAX_DOCUMENTS: usize = 64;

/// Where documents are read from, each verified against its digest.
pub trait Library: Sync {
    /// A manifest or an index.
    fn document(&self, digest: &Digest) -> impl Future<Output = Result<Bytes, TransferError>> + Send;

    /// A manifest's config.
    fn config(&self, config: &Descriptor) -> impl Future<Output = Result<Vec<u8>, TransferError>> + Send;
}

/// Refuses a config that is larger than one is read, before a byte of it is asked for.
pub fn check_config(reference: &str, config: &Descriptor) -> Result<(), TransferError> {
    if config.size > MAX_DOCUMENT_BYTES as u64 {
        let (reference, digest, size) = (reference.to_owned(), config.digest, config.size);
        return Err(TransferError::ConfigTooLarge { reference, digest, size });
    }
    Ok(())
}

/// The manifest that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The indexes that led to it, the outermost first.
    pub indexes: Vec<(Digest, Index)>,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What it says.
    pub manifest: Manifest,
}

/// Somewhere to look.
struct Lead {
    digest: Digest,
    /// Whether it is known to be for the platform, as far as anybody says so; else its config has to.
    is_certain: bool,
    /// How many indexes led to it.
    depth: usize,
}

/// Follows `top` to the manifest for `platform`. A manifest that no index led to is for whoever asks.
///
/// An entry that names the platform is followed alone. Where none does, those that name none are: indexes for what is in
/// them, manifests for what their configs say.
pub async fn search(
    library: &impl Library,
    reference: &str,
    platform: &Platform,
    top: Digest,
) -> Result<Found, TransferError> {
    let fault = |source| TransferError::Document { reference: reference.to_owned(), source };
    let mut leads = vec![Lead { digest: top, is_certain: true, depth: 0 }];
    let mut indexes: Vec<(Digest, Index)> = Vec::new();
    let (mut available, mut unnamed, mut unsupported, mut read) = (Vec::new(), 0, None, 0);
    while let Some(lead) = leads.pop() {
        read += 1;
        if lead.depth > MAX_DEPTH {
            return Err(fault(DocumentError::Nested(MAX_DEPTH)));
        }
        if read > MAX_DOCUMENTS {
            return Err(fault(DocumentError::Unnamed(MAX_DOCUMENTS)));
        }
        indexes.truncate(lead.depth);
        let bytes = library.document(&lead.digest).await?;
        match Document::parse(&bytes).map_err(fault)? {
            Document::Manifest(manifest) => {
                let is_for = if lead.is_certain {
                    true
                } else {
                    let stated = stated_platform(&library.config(&manifest.config).await?);
                    unnamed += usize::from(stated.is_none());
                    available.extend(stated.as_ref().map(ToString::to_string));
                    stated.is_some_and(|stated| stated.serves(platform))
                };
                if is_for {
                    return Ok(Found { indexes, digest: lead.digest, size: bytes.len() as u64, manifest });
                }
            }
            Document::Index(index) => {
                let follow =
                    |entry: &Descriptor, is_certain| Lead { digest: entry.digest, is_certain, depth: lead.depth + 1 };
                match index.choose(platform) {
                    Choice::Named(entry) => leads.push(follow(entry, true)),
                    Choice::Unnamed(entries) => {
                        available.extend(index.platforms());
                        unsupported = unsupported.or_else(|| index.unsupported(platform).map(ToOwned::to_owned));
                        let is_certain = lead.is_certain && index.manifests.len() == 1 && index.foreign.is_empty();
                        leads.extend(entries.into_iter().rev().map(|entry| follow(entry, is_certain)));
                    }
                }
                indexes.push((lead.digest, index));
            }
        }
    }
    match unnamed {
        0 => {}
        1 => available.push("1 entry without a platform".to_owned()),
        more => available.push(format!("{more} entries without a platform")),
    }
    Err(fault(match unsupported {
        Some(algorithm) => DocumentError::Algorithm(algorithm),
        None => DocumentError::NoPlatformMatch { wanted: platform.clone(), available },
    }))
}

/// The platform that an image's config says it is for; none where it is of another kind, and says nothing.
pub fn stated_platform(config: &[u8]) -> Option<Platform> {
    ImageConfig::parse(config).ok()?.platform
}
