//! Which manifest an index has for a platform, through the indexes that it leads to (image specification, "Image Index").

use std::future::Future;

use bytes::Bytes;

use super::TransferError;
use crate::oci::{
    Choice, Descriptor, Digest, Document, DocumentError, ImageConfig, Index, MAX_DOCUMENT_BYTES, Manifest, Platform,
};
use crate::registry::Resolved;

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
/// them, manifests for what their configs say. Of several images of one name, just one may fit.
pub async fn search(
    library: &impl Library,
    reference: &str,
    platform: &Platform,
    top: Resolved,
) -> Result<Found, TransferError> {
    let mut search = Search { library, reference, platform, read: 0, offers: Offers::default() };
    let found = match top {
        Resolved::One(digest) | Resolved::ByMirror(digest, _) => {
            search.follow(vec![Lead { digest, is_certain: true, depth: 0 }]).await?
        }
        Resolved::SameName(entries) => search.among(&Index::new(entries)).await?,
    };
    found.inspect(|found| log_choice(reference, platform, found)).ok_or_else(|| search.nothing())
}

/// Logs the manifest that was chosen, and the reason.
fn log_choice(reference: &str, platform: &Platform, found: &Found) {
    let digest = found.digest;
    let Some((index, entries)) = found.indexes.last() else {
        tracing::debug!("{reference}: manifest {digest}, which is for no platform in particular");
        return;
    };
    let entry = entries.images().find(|entry| entry.digest == digest).and_then(|entry| entry.platform.as_ref());
    match entry {
        Some(named) => {
            tracing::debug!("{reference}: manifest {digest} for {platform}; index {index} has it for {named}");
        }
        None => {
            tracing::debug!("{reference}: manifest {digest} for {platform}; index {index} names no platform for it");
        }
    }
}

/// A search for one image.
struct Search<'a, L> {
    library: &'a L,
    reference: &'a str,
    platform: &'a Platform,
    /// Documents read so far.
    read: usize,
    offers: Offers,
}

/// Images that were seen and do not fit.
#[derive(Default)]
struct Offers {
    available: Vec<String>,
    /// Images whose configs name no platform.
    unnamed: usize,
    /// The algorithm of a digest that an image for the platform may have.
    algorithm: Option<String>,
}

impl<L: Library> Search<'_, L> {
    /// Chooses among images of one name.
    async fn among(&mut self, entries: &Index) -> Result<Option<Found>, TransferError> {
        let (chosen, is_certain) = match entries.choose(self.platform) {
            Choice::Named(best) => {
                let fit = |entry: &Descriptor| entry.platform.as_ref().and_then(|it| it.fit(self.platform));
                (entries.images().filter(|entry| fit(entry) == fit(best)).collect(), true)
            }
            Choice::Unnamed(entries) => (entries, false),
        };
        self.offers.available.extend(entries.offers());
        let mut found: Vec<Found> = Vec::new();
        for entry in chosen {
            let image = self.follow(vec![Lead { digest: entry.digest, is_certain, depth: 0 }]).await?;
            found.extend(image.filter(|image| found.iter().all(|other| other.digest != image.digest)));
        }
        match found.as_slice() {
            [] | [_] => Ok(found.pop()),
            _ => {
                let digests = found.iter().map(|image| format!("@{}", image.top())).collect();
                Err(self.fault(DocumentError::Ambiguous { wanted: self.platform.to_string(), digests }))
            }
        }
    }

    /// The first image that the leads lead to, the last lead first.
    async fn follow(&mut self, mut leads: Vec<Lead>) -> Result<Option<Found>, TransferError> {
        let mut indexes: Vec<(Digest, Index)> = Vec::new();
        while let Some(lead) = leads.pop() {
            self.read += 1;
            if lead.depth > MAX_DEPTH {
                return Err(self.fault(DocumentError::Nested(MAX_DEPTH)));
            }
            if self.read > MAX_DOCUMENTS {
                return Err(self.fault(DocumentError::Unnamed(MAX_DOCUMENTS)));
            }
            indexes.truncate(lead.depth);
            let bytes = self.library.document(&lead.digest).await?;
            match Document::parse(&bytes).map_err(|source| self.fault(source))? {
                Document::Manifest(manifest) => {
                    if lead.is_certain || self.fits(&manifest).await? {
                        let (digest, size) = (lead.digest, bytes.len() as u64);
                        return Ok(Some(Found { indexes, digest, size, manifest }));
                    }
                }
                Document::Index(index) => {
                    leads.extend(self.leads(&lead, &index));
                    indexes.push((lead.digest, index));
                }
            }
        }
        Ok(None)
    }

    /// True if the config of a manifest names the platform. Only asked if no index names one for the manifest.
    async fn fits(&mut self, manifest: &Manifest) -> Result<bool, TransferError> {
        let stated = stated_platform(&self.library.config(&manifest.config).await?);
        self.offers.unnamed += usize::from(stated.is_none());
        self.offers.available.extend(stated.as_ref().map(ToString::to_string));
        Ok(stated.is_some_and(|stated| stated.serves(self.platform)))
    }

    /// The entries of an index to follow, the first one last.
    fn leads(&mut self, lead: &Lead, index: &Index) -> Vec<Lead> {
        // One line an index, which may have thousands of such entries.
        if let Some(first) = index.unsupported.first() {
            let (digest, count) = (lead.digest, index.unsupported.len());
            tracing::warn!(index = %digest, count, entry = first.position, reason = %first.reason, "index entry left out");
        }
        let follow = |entry: &Descriptor, is_certain| Lead { digest: entry.digest, is_certain, depth: lead.depth + 1 };
        match index.choose(self.platform) {
            Choice::Named(entry) => vec![follow(entry, true)],
            Choice::Unnamed(entries) => {
                self.offers.available.extend(index.offers());
                let algorithm = index.unsupported_algorithm(self.platform).map(ToOwned::to_owned);
                self.offers.algorithm = self.offers.algorithm.take().or(algorithm);
                let is_alone = index.images().count() == 1 && index.unsupported.is_empty();
                entries.into_iter().rev().map(|entry| follow(entry, lead.is_certain && is_alone)).collect()
            }
        }
    }

    fn nothing(self) -> TransferError {
        let Offers { mut available, unnamed, algorithm } = self.offers;
        match unnamed {
            0 => {}
            1 => available.push("1 entry without a platform".to_owned()),
            more => available.push(format!("{more} entries without a platform")),
        }
        let source = match algorithm {
            Some(algorithm) => DocumentError::Algorithm(algorithm),
            None => DocumentError::NoPlatformMatch { wanted: self.platform.clone(), available },
        };
        TransferError::Document { reference: self.reference.to_owned(), source }
    }

    fn fault(&self, source: DocumentError) -> TransferError {
        TransferError::Document { reference: self.reference.to_owned(), source }
    }
}

impl Found {
    /// The digest of what the reference led to first: an index, or the manifest itself.
    pub fn top(&self) -> Digest {
        self.indexes.first().map_or(self.digest, |(digest, _)| *digest)
    }
}

/// The platform that an image's config says it is for; none where it is of another kind, and says nothing.
pub fn stated_platform(config: &[u8]) -> Option<Platform> {
    ImageConfig::parse(config).ok()?.platform
}
