//! What is known of a download that is not whole: two small files beside its bytes.
//!
//! Killing the agent loses nothing that was written, for the kernel has it; a power cut loses what was not synced. So one
//! file says what was written, often and without waiting for the disk, and counts only until the machine starts again;
//! the other says what was synced, and is synced itself.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::Ranges;
use crate::durable::{DurableError, IoContext, remove_file, sync_data, write_at, write_atomic};

/// Nobody else's business.
const MODE: u32 = 0o600;
/// The length of the file that is written over and over, in bytes: of one page, a kill leaves all or nothing.
const PAGE: usize = 4096;

/// The two files.
#[derive(Debug)]
pub(super) struct Ledger {
    written: PathBuf,
    synced: PathBuf,
    page: Option<File>,
}

#[derive(Serialize, Deserialize)]
struct Page {
    /// The kernel's name for the time since the machine started.
    boot: String,
    written: Ranges,
}

impl Ledger {
    /// The ledger of the download at `partial`.
    pub(super) fn of(partial: &Path) -> Self {
        let beside = |ending: &str| {
            let mut name = OsString::from(partial);
            name.push(ending);
            PathBuf::from(name)
        };
        Self { written: beside(".written"), synced: beside(".synced"), page: None }
    }

    /// The two files.
    pub(super) fn files(&self) -> [&Path; 2] {
        [&self.written, &self.synced]
    }

    /// Which bytes are there, as far as anybody knows. What cannot be read says nothing.
    pub(super) fn read(&self) -> Ranges {
        let page = fs::read(&self.written).ok().and_then(|page| serde_json::from_slice::<Page>(&page).ok());
        match page.filter(|page| page.boot == boot() && !page.boot.is_empty()) {
            Some(page) => page.written,
            None => fs::read(&self.synced).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default(),
        }
    }

    /// Notes what was written. It is a help, and no more: where it fails, the note before it counts, and says less.
    pub(super) fn note(&mut self, written: &Ranges) {
        let page = Page { boot: boot().to_owned(), written: written.clone() };
        let mut text = serde_json::to_vec(&page).unwrap_or_default();
        // So many gaps are no download of ours.
        if text.len() > PAGE {
            return;
        }
        text.resize(PAGE, b' ');
        if let Err(error) = self.overwrite(&text) {
            tracing::debug!(path = %self.written.display(), %error, "cannot note how far a download is");
        }
    }

    fn overwrite(&mut self, text: &[u8]) -> Result<(), DurableError> {
        let mut open = OpenOptions::new();
        let open = open.write(true).create(true).truncate(false).mode(MODE);
        let file = self.page.take().map_or_else(|| open.open(&self.written).on("open", &self.written), Ok)?;
        let written = write_at(&file, &self.written, 0, text);
        self.page = Some(file);
        written
    }

    /// Where what was synced is written down, for [`save`].
    pub(super) fn synced(&self) -> &Path {
        &self.synced
    }

    /// Removes both files; the download has ended.
    pub(super) fn remove(&self) -> Result<(), DurableError> {
        remove_file(&self.written)?;
        remove_file(&self.synced)
    }
}

/// Makes what was written durable, and then the word that it was. Without the word, only more is fetched again; so the error
/// is of the sync alone.
pub(super) fn save(file: &File, partial: &Path, synced: &Path, written: &Ranges) -> Result<(), DurableError> {
    sync_data(file, partial)?;
    if let Err(error) = write_atomic(synced, &serde_json::to_vec(written).unwrap_or_default(), MODE) {
        tracing::debug!(%error, "cannot say how far a download is");
    }
    Ok(())
}

/// The kernel's name for the time since the machine started; nothing where it has none.
fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(pairs: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::default();
        for (start, end) in pairs {
            ranges.insert(*start..*end);
        }
        ranges
    }

    #[test]
    fn what_was_written_counts_until_the_machine_starts_again() {
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join("x");
        fs::write(&partial, "bytes").unwrap();
        let mut ledger = Ledger::of(&partial);
        assert_eq!(ledger.read(), Ranges::default());
        let (early, late) = (ranges(&[(0, 2)]), ranges(&[(0, 2), (3, 5)]));
        save(&File::open(&partial).unwrap(), &partial, ledger.synced(), &early).unwrap();
        assert_eq!(ledger.read(), early);
        ledger.note(&ranges(&[(0, 1000), (2000, 3000)]));
        ledger.note(&late);
        assert_eq!(Ledger::of(&partial).read(), late);
        let page = fs::read_to_string(&ledger.written).unwrap();
        fs::write(&ledger.written, page.replace(boot().trim(), "another")).unwrap();
        assert_eq!(ledger.read(), early);
        fs::write(&ledger.written, "{").unwrap();
        assert_eq!(ledger.read(), early);
        fs::write(ledger.synced(), "[[7,3]]").unwrap();
        assert_eq!(ledger.read(), Ranges::default());
        ledger.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
