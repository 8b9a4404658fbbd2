//! The ways to one image: the registry's mirrors in their order, then the registry itself.
//!
//! A mirror may be down, may lack the image or may serve wrong bytes; none of that is an error as long as somebody else
//! has it. Digests may come from any mirror, since they prove the bytes. A tag is resolved at the registry, or at a mirror
//! that is reached by HTTPS and whose own table says `resolve_tags = true`.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::client::Repository;
use super::{BlobStream, RegistryError, Resolved, Standing};
use crate::oci::{Descriptor, Digest};

/// Where one image may come from.
#[derive(Clone, Debug)]
pub struct Route {
    pub(super) mirrors: Vec<Repository>,
    pub(super) origin: Repository,
}

impl Route {
    pub(super) async fn resolve(&self) -> Result<Resolved, RegistryError> {
        if let Some(digest) = self.origin.reference.digest {
            return Ok(Resolved::One(digest));
        }
        let ask = |repository: Repository| async move {
            let digest = repository.resolve().await?;
            Ok(match repository.mirrored {
                Some(_) => Resolved::ByMirror(digest, Arc::clone(&repository.host.standing)),
                None => Resolved::One(digest),
            })
        };
        self.first(None, ask).await
    }

    pub(super) async fn document(&self, digest: &Digest) -> Result<Bytes, RegistryError> {
        let wanted = *digest;
        self.first(Some(digest), |repository| async move { repository.document(&wanted).await }).await
    }

    pub(super) async fn blob(&self, blob: &Descriptor, part: Range<u64>) -> Result<BlobStream, RegistryError> {
        let ask = |repository: Repository| {
            let (blob, part) = (blob.clone(), part.clone());
            async move { repository.blob(&blob, part).await }
        };
        self.first(Some(&blob.digest), ask).await
    }

    /// Where a blob is, for a person.
    pub(super) fn place(&self, blob: &Descriptor) -> String {
        self.origin.url("blobs", &blob.digest.to_string())
    }

    /// Whether it is worth asking for several parts of `blob` at a time.
    pub(super) fn does_parts(&self, blob: &Descriptor) -> bool {
        let mut good = self.mirrors.iter().filter(|mirror| mirror.host.standing.is_good(Some(&blob.digest)));
        good.next().unwrap_or(&self.origin).does_ranges()
    }

    /// A mirror that is slow is left alone for a while, so that the next in order is asked. The registry itself is the last of
    /// them: where a mirror was faster, that is asked again.
    pub(super) fn leave(&self, blob: &Descriptor, mirror: Option<&Arc<Standing>>, bytes_per_second: u64) -> bool {
        if let Some(mirror) = mirror {
            mirror.found_slow(bytes_per_second);
            return true;
        }
        let known = self.suspects(blob).into_iter().filter_map(|mirror| Some((mirror.slowness()?, mirror)));
        let best = known.max_by_key(|(speed, _)| *speed).filter(|(speed, _)| *speed > bytes_per_second);
        best.inspect(|(_, mirror)| mirror.wake()).is_some()
    }

    /// The mirrors that are trusted with a blob.
    pub(super) fn suspects(&self, blob: &Descriptor) -> Vec<Arc<Standing>> {
        let standings = self.mirrors.iter().map(|mirror| &mirror.host.standing);
        standings.filter(|standing| standing.is_trusted(Some(&blob.digest))).cloned().collect()
    }

    /// The first answer, from a mirror or from the registry. Without a digest that proves the answer, only mirrors that may
    /// resolve tags are asked.
    async fn first<T, F: Future<Output = Result<T, RegistryError>>>(
        &self,
        digest: Option<&Digest>,
        ask: impl Fn(Repository) -> F,
    ) -> Result<T, RegistryError> {
        let trusted = self.mirrors.iter().filter(|mirror| digest.is_some() || mirror.resolves_tags);
        let (good, resting): (Vec<_>, Vec<_>) = trusted.partition(|mirror| mirror.host.standing.is_good(digest));
        for mirror in good {
            match ask(mirror.clone()).await {
                Ok(answer) => {
                    tracing::debug!(
                        digest = digest.map(tracing::field::display),
                        "answered by mirror {}",
                        mirror.host.base
                    );
                    mirror.host.standing.succeeded();
                    return Ok(answer);
                }
                Err(error) => {
                    tracing::info!(%error, "a mirror is of no help; going on to the next");
                    mirror.host.standing.note(&error, digest);
                }
            }
        }
        if !self.mirrors.is_empty() {
            let skipped: Vec<_> = resting.iter().map(|mirror| mirror.host.base.as_str()).collect();
            let (digest, skipped) = (digest.map(tracing::field::display), skipped.join(", "));
            tracing::debug!(digest, left_alone = skipped, "asking the registry {} itself", self.origin.host.base);
        }
        let refused = match ask(self.origin.clone()).await {
            Err(error) => error,
            answer => return answer,
        };
        // Nobody is left but those that were slow, or were down a while ago.
        for mirror in resting {
            let standing = &mirror.host.standing;
            if !standing.is_trusted(digest) || !(refused.is_passing() || standing.slowness().is_some()) {
                continue;
            }
            standing.wake();
            tracing::debug!("asking mirror {} again, because the registry does not answer", mirror.host.base);
            match ask(mirror.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => mirror.host.standing.note(&error, digest),
            }
        }
        Err(refused)
    }
}
