//! Names among the blobs and the downloads: those that this program gives, and those of others, which are left alone.

use std::fs;
use std::path::{Path, PathBuf};

use super::Cache;
use super::store::WIRE;
use crate::durable::{DurableError, IoContext};
use crate::oci::Digest;

/// What stands behind a digest in the name of what belongs to a download: of a ledger's files, of the note on the network,
/// of a file that comes out of a layer, and of any of them while it is being written.
const ENDINGS: [&str; 5] = [".written", ".synced", WIRE, ".staged", ".new"];

/// A name among the downloads as the digest in hexadecimal digits that it begins with, and what stands behind that; none
/// where somebody else gave it.
pub(super) fn download(name: &str) -> Option<(&str, &str)> {
    // With a dot before it while a note is being written.
    let (hex, ending) = name.strip_prefix('.').unwrap_or(name).split_at_checked(64)?;
    let is_ours = ending.is_empty() || ENDINGS.iter().any(|known| ending.starts_with('.') && ending.ends_with(known));
    (is_ours && is_digest(hex)).then_some((hex, ending))
}

/// Whether a name among the blobs is that of one, or of one that is being written.
fn is_blob(name: &str) -> bool {
    let unfinished = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new"));
    is_digest(unfinished.unwrap_or(name))
}

fn is_digest(hex: &str) -> bool {
    format!("sha256:{hex}").parse::<Digest>().is_ok()
}

impl Cache {
    /// What lies among the blobs and the downloads under names that are not ours, in no order. Nobody needs it, and nobody
    /// but a person knows whose it is.
    pub fn strays(&self) -> Result<Vec<PathBuf>, DurableError> {
        let mut strays = strangers(&self.root().join(super::store::BLOBS), is_blob)?;
        strays.extend(strangers(self.partial_dir(), |name| download(name).is_some())?);
        Ok(strays)
    }
}

fn strangers(dir: &Path, is_ours: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, DurableError> {
    let entries = fs::read_dir(dir).on("list", dir)?.filter_map(Result::ok);
    let others = entries.filter(|entry| !entry.file_name().to_str().is_some_and(&is_ours));
    Ok(others.map(|entry| entry.path()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_ours_or_somebody_elses() {
        let hex = Digest::of(b"x").hex();
        for (name, ending) in [
            (hex.clone(), ""),
            (format!("{hex}.written"), ".written"),
            (format!(".{hex}.synced.new"), ".synced.new"),
            (format!("{hex}.wire"), ".wire"),
            (format!("{hex}.0.staged"), ".0.staged"),
        ] {
            assert_eq!(download(&name), Some((hex.as_str(), ending)), "{name}");
        }
        for name in
            ["x", ".x.new", "x.staged", &hex[1..], &format!("{hex}x"), &format!("{hex}.bak"), &hex.to_uppercase()]
        {
            assert_eq!(download(name), None, "{name}");
        }
        assert!(is_blob(&hex) && is_blob(&format!(".{hex}.new")) && !is_blob(".x.new"));
        assert!(!is_blob(&format!("{hex}.damaged-0")), "what was set aside is for a person to look at");
    }

    #[test]
    fn what_others_put_among_the_downloads_stays_and_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let partial = dir.path().join("partial");
        let (ours, theirs) =
            (partial.join(Digest::of(b"x").hex()), ["notes", "dir.staged"].map(|name| partial.join(name)));
        fs::create_dir_all(ours.join("in it")).unwrap();
        fs::write(&theirs[0], "mine").unwrap();
        fs::create_dir_all(&theirs[1]).unwrap();
        let cache = {
            drop(cache);
            Cache::open(dir.path()).unwrap()
        };
        cache.abandon_partials(|_, _| false).unwrap();
        assert_eq!((ours.exists(), theirs.each_ref().map(|path| path.exists())), (false, [true, true]));
        let mut strays = cache.strays().unwrap();
        strays.sort();
        assert_eq!(strays, [&theirs[1], &theirs[0]].map(Clone::clone));
    }
}
