//! What was found in a layer, noted beside the cache's layout by the layer's digest.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::packing::promise;
use super::{Fault, Limits};
use crate::cache::Cache;
use crate::durable::{DurableError, IoContext, remove_file};
use crate::eci::ImagePath;
use crate::oci::{Descriptor, Digest};

/// A note has a few paths.
const MAX_BYTES: u64 = 1024 * 1024;
/// Version of what is noted. 1 was before links were followed and skippable frames of zstd were skipped.
const FORMAT: u8 = 2;

const ONLY: &str = "only";
const ONLY_OR_ARCHIVE: &str = "only-or-archive";

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding<F = Content> {
    /// Here it is.
    File(F),
    /// It is gone: layers below do not count.
    Gone,
    /// Nothing: layers below count.
    Nothing,
    /// Nothing, and this path above it is a directory here: a link that lower layers have in its place does not count.
    Directory(ImagePath),
    /// A symbolic link.
    Symlink {
        /// The path that is the link: the one that is looked for, or one above it.
        at: ImagePath,
        /// Its target, as it is written.
        to: String,
    },
    /// A hard link: another name of the file that this layer, and those below it, have at this path.
    HardLink(ImagePath),
}

/// What is known of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version that wrote it.
    #[serde(default)]
    format: u8,
    findings: BTreeMap<String, Finding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    /// The packing that the layer's media type names: another image may have the same bytes under another type.
    #[serde(skip)]
    promise: Option<String>,
}

/// That something is wrong with a layer, and who found so: another program, with other limits, which looks for something
/// else, may find it right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    version: String,
    max_file_bytes: u64,
    #[serde(default)]
    max_window: u64,
    #[serde(default)]
    memory: u64,
    wants: Vec<String>,
    fault: Fault,
}

impl Want {
    /// The name in a note, of a layer that is packed as `promise` says.
    fn key(&self, promise: Option<&str>) -> String {
        let only = match self {
            Self::Only => ONLY,
            Self::OnlyOrArchive => ONLY_OR_ARCHIVE,
            Self::Path(path) => return path.to_string(),
        };
        promise.map_or_else(|| only.to_owned(), |promise| format!("{only} as {promise}"))
    }
}

impl Default for Record {
    fn default() -> Self {
        Self { format: FORMAT, findings: BTreeMap::new(), verdict: None, promise: None }
    }
}

impl<F> Finding<F> {
    /// The same of a file that is known otherwise.
    pub(super) fn with_file<G, E>(self, file: impl FnOnce(F) -> Result<G, E>) -> Result<Finding<G>, E> {
        Ok(match self {
            Self::File(found) => Finding::File(file(found)?),
            Self::Gone => Finding::Gone,
            Self::Nothing => Finding::Nothing,
            Self::Directory(at) => Finding::Directory(at),
            Self::Symlink { at, to } => Finding::Symlink { at, to },
            Self::HardLink(path) => Finding::HardLink(path),
        })
    }

    /// True if a layer can say this of `want`.
    pub(super) fn is_about(&self, want: &Want) -> bool {
        match (self, want) {
            (Self::Gone | Self::Nothing | Self::HardLink(_), Want::Path(_)) | (Self::File(_), _) => true,
            (_, Want::Only | Want::OnlyOrArchive) => false,
            (Self::Directory(at), Want::Path(path)) => path.ancestors().any(|above| above == at.as_str()),
            (Self::Symlink { at, .. }, Want::Path(path)) => {
                at == path || path.ancestors().any(|above| above == at.as_str())
            }
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
    pub fn load(cache: &Cache, layer: &Descriptor) -> Self {
        cache.note_in_use(&layer.digest);
        let mut record = Self::read(cache, &layer.digest);
        record.promise = promise(&layer.media_type);
        if record.format < FORMAT { record.without_outdated(&layer.digest) } else { record }
    }

    /// The same for who only looks, and whose looking keeps nothing.
    pub fn peek(cache: &Cache, layer: &Digest) -> Self {
        Self::read(cache, layer)
    }

    fn read(cache: &Cache, layer: &Digest) -> Self {
        let path = path(cache, layer);
        let small = std::fs::metadata(&path).is_ok_and(|found| found.len() <= MAX_BYTES);
        let text = small.then(|| std::fs::read(&path).ok()).flatten().unwrap_or_default();
        let record: Self = serde_json::from_slice(&text).unwrap_or_default();
        if record.format > FORMAT { Self::default() } else { record }
    }

    /// The record of an older version, without findings that may be wrong: a file that a link hid, a layer that was taken
    /// for a file as it is, and refusals.
    fn without_outdated(mut self, layer: &Digest) -> Self {
        self.findings.retain(|_, finding| match finding {
            Finding::File(content) => content.digest != *layer,
            Finding::Gone => false,
            _ => true,
        });
        // It had no names for how a layer is packed.
        for want in [Want::Only, Want::OnlyOrArchive] {
            if let Some(finding) = self.findings.remove(&want.key(None)) {
                self.findings.insert(want.key(self.promise.as_deref()), finding);
            }
        }
        Self { format: FORMAT, verdict: None, ..self }
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
        self.findings.get(&want.key(self.promise.as_deref())).cloned()
    }

    /// Whether `digest` is that of a file that was found in the layer, or of the layer itself where that is one.
    pub fn names(&self, digest: &Digest) -> bool {
        self.contents().any(|content| content.digest == *digest)
    }

    /// The files that were found.
    pub fn contents(&self) -> impl Iterator<Item = Content> + '_ {
        self.findings.values().filter_map(|finding| match finding {
            Finding::File(content) => Some(*content),
            _ => None,
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
        (*verdict == self.verdict_of(wants, limits, verdict.fault.clone())).then_some(&verdict.fault)
    }

    pub(super) fn note_fault(&mut self, wants: &[Want], limits: Limits, fault: Fault) {
        self.verdict = Some(self.verdict_of(wants, limits, fault));
    }

    fn verdict_of(&self, wants: &[Want], limits: Limits, fault: Fault) -> Verdict {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let wants = wants.iter().map(|want| want.key(self.promise.as_deref())).collect();
        let Limits { max_file_bytes, max_window, memory } = limits;
        Verdict { version, max_file_bytes, max_window, memory, wants, fault }
    }

    pub(super) fn note(&mut self, want: &Want, finding: Finding) {
        self.findings.insert(want.key(self.promise.as_deref()), finding);
    }

    pub(super) fn save(&self, cache: &Cache, layer: &Digest) -> Result<(), DurableError> {
        cache.write_unpacked(&path(cache, layer), &serde_json::to_vec_pretty(self).unwrap_or_default())
    }
}

fn path(cache: &Cache, layer: &Digest) -> PathBuf {
    cache.unpacked_dir().join(format!("{}.json", layer.hex()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_note_says_only_what_is_still_right() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let (layer, file) = (Digest::of(b"layer"), Digest::of(b"file"));
        let described = |media_type: &str| Descriptor::new(media_type, layer, 5);
        let content = |digest: &Digest| serde_json::json!({"file": {"digest": digest, "size": 5}});
        let mut note = serde_json::json!({
            "findings": {"only": content(&layer), "/kernel": content(&file), "/boot/k": "gone", "/x": "nothing"},
            "verdict": {"version": env!("CARGO_PKG_VERSION"), "max_file_bytes": 7, "wants": ["/l"],
                "fault": {"refused": "/l is wanted, and is no regular file"}},
        });
        let write = |note: &serde_json::Value| {
            std::fs::create_dir_all(cache.unpacked_dir()).unwrap();
            std::fs::write(path(&cache, &layer), note.to_string()).unwrap();
            Record::load(&cache, &described("tar"))
        };
        let found = write(&note);
        let keys: Vec<_> = found.findings.keys().map(String::as_str).collect();
        assert_eq!((keys, &found.verdict), (vec!["/kernel", "/x"], &None));
        note["findings"]["only"] = content(&file);
        write(&note);
        let packed = Record::load(&cache, &described("tar+gzip"));
        assert!(packed.noted(&Want::Only).is_some(), "a file that came out is still the one");
        note["format"] = 2.into();
        let found = write(&note);
        assert_eq!((found.findings.len(), found.verdict.is_some()), (4, true));
        note["format"] = 3.into();
        assert!(write(&note).is_empty(), "a newer version may mean something else by it");
    }

    #[test]
    fn a_record_is_for_one_media_type() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let limits = Limits::new(7);
        let [plain, packed] = ["tar", "tar+gzip"].map(|media_type| Descriptor::of(media_type, b"layer"));
        let wants = [Want::Only];
        let mut record = Record::load(&cache, &packed);
        record.note(&Want::Only, Finding::Nothing);
        record.note_fault(&wants, limits, Fault::Refused("odd".to_owned()));
        record.save(&cache, &packed.digest).unwrap();
        assert_eq!(Record::load(&cache, &packed), record);
        let other = Record::load(&cache, &plain);
        assert_eq!((other.noted(&Want::Only), other.fault(&wants, limits)), (None, None));
        assert!(record.noted(&Want::Only).is_some() && record.fault(&wants, limits).is_some());
    }

    #[test]
    fn findings_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let layer = Digest::of(b"layer");
        let mut record = Record::default();
        let at = |text: &str| text.parse::<ImagePath>().unwrap();
        for (n, finding) in [
            Finding::Directory(at("/boot")),
            Finding::Symlink { at: at("/boot"), to: "../\u{1}".to_owned() },
            Finding::HardLink(at("/k")),
        ]
        .into_iter()
        .enumerate()
        {
            record.note(&Want::Path(at(&format!("/boot/{n}"))), finding);
        }
        record.save(&cache, &layer).unwrap();
        assert_eq!(Record::peek(&cache, &layer), record);
    }

    #[test]
    fn records_in_use_stay_and_unfinished_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let described = Descriptor::of("x", b"layer");
        let layer = described.digest;
        let mut record = Record::default();
        record.note(&Want::Only, Finding::Nothing);
        record.save(&cache, &layer).unwrap();
        let left = path(&cache, &layer).with_file_name(format!(".{}.json.new", Digest::of(b"other").hex()));
        std::fs::write(&left, "{").unwrap();
        let work = cache.begin_work();
        assert_eq!(Record::load(&cache, &described), record);
        Record::sweep(&cache, |_| false).unwrap();
        assert_eq!((Record::peek(&cache, &layer), left.exists()), (record, false));
        drop(work);
        Record::sweep(&cache, |_| false).unwrap();
        assert!(Record::peek(&cache, &layer).is_empty());
    }
}
