//! What was found in a layer, noted beside the cache's layout by the layer's digest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Fault, Limits};
use crate::cache::Cache;
use crate::durable::{DurableError, IoContext, create_dir, remove_file, write_atomic};
use crate::eci::ImagePath;
use crate::oci::{Descriptor, Digest};

/// A note has a few paths.
const MAX_BYTES: u64 = 1024 * 1024;

/// What is looked for in a layer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Want {
    /// The file that the layer is, or the one file that is packed in it.
    Only,
    /// The same for a disk that is itself an archive (`ova`): several files in it are no fault.
    OnlyOrArchive,
    /// The file at a path.
    Path(ImagePath),
}

/// A file's bytes, in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Their digest.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

/// What a layer says of what is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Here it is.
    File(Content),
    /// It is gone: layers below do not count.
    Gone,
    /// Nothing: layers below count.
    Nothing,
}

/// What is known of one layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    findings: BTreeMap<String, Finding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
}

/// That something is wrong with a layer, and who found so: another program, with other limits, which looks for something
/// else, may find it right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    version: String,
    max_file_bytes: u64,
    wants: Vec<String>,
    fault: Fault,
}

impl Want {
    fn key(&self) -> String {
        match self {
            Self::Only => "only".to_owned(),
            Self::OnlyOrArchive => "only-or-archive".to_owned(),
            Self::Path(path) => path.to_string(),
        }
    }
}

impl Content {
    /// Describes it as a blob of the cache.
    pub fn blob(&self) -> Descriptor {
        Descriptor::new("application/octet-stream", self.digest, self.size)
    }
}

impl Record {
    /// What is known of `layer`; a note that is damaged or absent says nothing. It stays for as long as the work runs that
    /// looks at it.
    pub fn load(cache: &Cache, layer: &Digest) -> Self {
        cache.note_in_use(layer);
        Self::peek(cache, layer)
    }

    /// The same for who only looks, and whose looking keeps nothing.
    pub fn peek(cache: &Cache, layer: &Digest) -> Self {
        let path = path(cache, layer);
        let small = std::fs::metadata(&path).is_ok_and(|found| found.len() <= MAX_BYTES);
        let text = small.then(|| std::fs::read(&path).ok()).flatten().unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// What is known of `want`; none where it was never looked for, or where its bytes are no longer in the cache. They are not
    /// read: whoever uses them sees to that.
    pub fn finding(&self, cache: &Cache, want: &Want) -> Option<Finding> {
        match self.noted(want)? {
            Finding::File(content) if !cache.contains(&content.blob()) => None,
            finding => Some(finding),
        }
    }

    /// What is noted of `want`, whether its bytes are still in the cache or not.
    pub fn noted(&self, want: &Want) -> Option<Finding> {
        self.findings.get(&want.key()).copied()
    }

    /// Whether `digest` is that of a file that was found in the layer, or of the layer itself where that is one.
    pub fn names(&self, digest: &Digest) -> bool {
        self.contents().any(|content| content.digest == *digest)
    }

    /// The files that were found.
    pub fn contents(&self) -> impl Iterator<Item = Content> + '_ {
        self.findings.values().filter_map(|finding| match finding {
            Finding::File(content) => Some(*content),
            Finding::Gone | Finding::Nothing => None,
        })
    }

    /// Removes what is noted of layers that `keeps` does not want to keep and that no running work has looked at.
    pub fn sweep(cache: &Cache, keeps: impl Fn(&Digest) -> bool) -> Result<(), DurableError> {
        let notes = match std::fs::read_dir(cache.unpacked_dir()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            notes => notes.on("list", &cache.unpacked_dir())?,
        };
        for note in notes.filter_map(Result::ok).map(|note| note.path()) {
            // With a dot before the digest, a note that a crash has left incomplete.
            let name = note.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let hex = name.trim_start_matches('.').split('.').next().unwrap_or_default();
            if let Ok(layer) = format!("sha256:{hex}").parse()
                && !keeps(&layer)
            {
                cache.remove_note_unused(&layer, || remove_file(&note))?;
            }
        }
        Ok(())
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// What is wrong with the layer for those who look for `wants` in it, where that is known.
    pub fn fault(&self, wants: &[Want], limits: Limits) -> Option<&Fault> {
        let verdict = self.verdict.as_ref()?;
        (*verdict == Verdict::new(wants, limits, verdict.fault.clone())).then_some(&verdict.fault)
    }

    pub(super) fn note_fault(&mut self, wants: &[Want], limits: Limits, fault: Fault) {
        self.verdict = Some(Verdict::new(wants, limits, fault));
    }

    pub(super) fn note(&mut self, want: &Want, finding: Finding) {
        self.findings.insert(want.key(), finding);
    }

    pub(super) fn save(&self, cache: &Cache, layer: &Digest) -> Result<(), DurableError> {
        let path = path(cache, layer);
        create_dir(path.parent().unwrap_or(Path::new("/")), 0o755)?;
        cache.named(write_atomic(&path, &serde_json::to_vec_pretty(self).unwrap_or_default(), 0o644))
    }
}

impl Verdict {
    fn new(wants: &[Want], limits: Limits, fault: Fault) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let wants = wants.iter().map(Want::key).collect();
        Self { version, max_file_bytes: limits.max_file_bytes, wants, fault }
    }
}

fn path(cache: &Cache, layer: &Digest) -> PathBuf {
    cache.unpacked_dir().join(format!("{}.json", layer.hex()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_that_running_work_has_looked_at_stays_and_what_a_crash_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let layer = Digest::of(b"layer");
        let mut record = Record::default();
        record.note(&Want::Only, Finding::Nothing);
        record.save(&cache, &layer).unwrap();
        let left = path(&cache, &layer).with_file_name(format!(".{}.json.new", Digest::of(b"other").hex()));
        std::fs::write(&left, "{").unwrap();
        let work = cache.begin_work();
        assert_eq!(Record::load(&cache, &layer), record);
        Record::sweep(&cache, |_| false).unwrap();
        assert_eq!((Record::peek(&cache, &layer), left.exists()), (record, false));
        drop(work);
        Record::sweep(&cache, |_| false).unwrap();
        assert!(Record::peek(&cache, &layer).is_empty());
    }
}
