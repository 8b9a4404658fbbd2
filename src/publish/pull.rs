//! An image back into files. Everything is fetched and verified in a hidden work directory beside them, and only then
//! renamed into place: a file under its own name is whole, and an interrupted pull is taken up by the next one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pick::{Files, Pick, Wanted, Write, kind_of, parent};
use super::replace::Replaceable;
use super::{Moved, Observer, PublishError};
use crate::blocking;
use crate::cache::Cache;
use crate::config::Settings;
use crate::durable::{
    DirLock, copy, create_dir, create_user_dir, new_file_mode, private_dir, remove_dir, remove_dir_all, remove_file,
    remove_locked_dir, rename, set_mode, share,
};
use crate::eci::File;
use crate::failure::{Classify, Kind};
use crate::oci::{Descriptor, Platform, Reference};
use crate::registry::{Attempts, Caller, Registries, Source};
use crate::transfer::{
    Fetcher, Plan, Progress, Target, TransferError, Unpacking, check_layout, clear_damaged, explain, find, layout_parts,
};
use crate::unpack::Content;

/// Where an unfinished pull keeps what it has, in the directory that it pulls into.
const WORK_DIR: &str = ".eci-pull";
/// Bytes that count as progress of a try: without a minimum, a try that brings a byte each time would be retried for ever.
const PROGRESS: u64 = 64 << 10;

/// What was pulled.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// What the reference turned out to be.
    pub target: Target,
    /// The files, in the manifest's order, then config and manifest.
    pub files: Vec<PathBuf>,
    /// Bytes of its blobs, and those that an earlier pull had left.
    pub moved: Moved,
}

/// A verified blob, and the file that it becomes.
#[derive(Clone, Debug)]
struct Placement {
    blob: Descriptor,
    path: PathBuf,
}

impl Placement {
    fn write(&self) -> Write {
        (self.path.clone(), Some(self.blob.clone()))
    }
}

/// Pulls the image `reference` into `dir`, which is made where it does not exist. Files of the same names are replaced if
/// an earlier pull wrote them, or if `force` is set; else nothing is placed.
pub async fn pull(
    settings: &Settings,
    reference: &Reference,
    platform: &Platform,
    dir: &Path,
    force: bool,
    observer: &dyn Observer,
) -> Result<Pulled, PublishError> {
    take(settings, reference, platform, &Wanted::All { dir: dir.to_owned(), force }, observer).await
}

/// Pulls some files of the image `reference`. Each replaces what is at its path, all once the last of them is there; no
/// more is fetched than they take.
pub async fn pull_files(
    settings: &Settings,
    reference: &Reference,
    platform: &Platform,
    files: Files,
    observer: &dyn Observer,
) -> Result<Pulled, PublishError> {
    take(settings, reference, platform, &Wanted::Some(files), observer).await
}

async fn take(
    settings: &Settings,
    reference: &Reference,
    platform: &Platform,
    wanted: &Wanted,
    observer: &dyn Observer,
) -> Result<Pulled, PublishError> {
    let checked = wanted.clone();
    blocking::run(move || checked.check()).await?;
    let source = Registries::new(settings, Caller::User).source(reference).await?;
    let place = wanted.dir();
    let site = blocking::run(move || Site::open(&place)).await?;
    let name = reference.to_string();
    let fetcher = Fetcher::new(site.cache.clone(), &settings.transfer);
    let mut attempts = Attempts::new(settings.retry);
    let (pick, mut plan, mut replaceable) = loop {
        match prepare(settings, &source, &name, platform, wanted, &site, &fetcher).await {
            Ok(prepared) => break prepared,
            Err(error) if attempts.wait_after(error.of_registry()).await => {}
            Err(error) => {
                // Nothing came yet that would be worth keeping.
                let _ = blocking::run(move || site.abandon()).await;
                return Err(error);
            }
        }
    };
    attempts = Attempts::new(settings.retry);
    attempts.note_reached();
    let mut furthest = plan.bytes_present;
    let present = plan.bytes_present;
    let moved = loop {
        let progress = Arc::new(Progress::new(plan.bytes_total, plan.bytes_present));
        observer.begin("image", &progress);
        let all = async {
            fetcher.fetch(&source, &name, &plan.missing, &progress).await?;
            if plan.unpack {
                fetcher.unpack(&source, &name, &pick.target, Unpacking::of_workstation(settings), &progress).await?;
            }
            Ok::<_, TransferError>(())
        };
        let outcome = all.await;
        observer.end();
        let Err(error) = outcome else {
            let mut moved = Moved::default();
            moved.add(progress.now().bytes_total, present);
            break moved;
        };
        // Downloads in flight are kept once they are written.
        fetcher.rest().await;
        let done = progress.now().bytes_done;
        if !attempts.wait_after(error.of_registry()).await {
            return Err(site.explain(explain(&source, &pick.target, error).await));
        }
        if done >= furthest.saturating_add(PROGRESS) {
            furthest = done;
            attempts.note_progress();
        }
        plan = plan_of(settings, &pick, &site).await?;
    };
    let taken = pick.clone();
    let files = blocking::run(move || {
        let placements = placements(&taken, &taken.target.files(&site.cache, &name)?);
        if taken.guards_files {
            let writes: Vec<Write> = placements.iter().map(Placement::write).collect();
            replaceable.check(&site.dir, &writes)?;
        }
        let files = placements.iter().map(|placement| placement.path.clone()).collect();
        site.finish(&placements)?;
        Ok::<_, PublishError>(files)
    })
    .await?;
    Ok(Pulled { target: pick.target, files, moved })
}

/// All that can be refused before anything large is fetched.
async fn prepare(
    settings: &Settings,
    source: &Source,
    name: &str,
    platform: &Platform,
    wanted: &Wanted,
    site: &Site,
    fetcher: &Fetcher,
) -> Result<(Pick, Plan, Replaceable), PublishError> {
    let pick = wanted.pick(find(source, fetcher, name, platform).await?)?;
    let mut replaceable = Replaceable::default();
    if pick.guards_files {
        let (dir, writes) = (site.dir.clone(), pick.writes());
        replaceable = blocking::run(move || replaceable.check(&dir, &writes).map(|()| replaceable)).await?;
    }
    // What a layout lacks and nobody wants is no fault.
    let mut parts = layout_parts(&pick.target.artifact);
    parts.retain(|part| part.blob.digest != pick.target.artifact.config.digest || pick.takes(&part.blob));
    check_layout(source, &site.cache, parts).await?;
    // What an earlier pull has left is verified first: all that has to be fetched is known before a byte is.
    clear_damaged(&site.cache, &pick.target).await?;
    let plan = plan_of(settings, &pick, site).await?;
    fetcher
        .make_room(name, &plan)
        .await
        .map_err(|error| if site.found.1 { site.explain(error) } else { error.into() })?;
    Ok((pick, plan, replaceable))
}

/// The plan for the files that are wanted of an image.
async fn plan_of(settings: &Settings, pick: &Pick, site: &Site) -> Result<Plan, PublishError> {
    let mut plan = Plan::new(&site.cache, &pick.target, settings.transfer.max_file_bytes).await?;
    plan.missing.retain(|blob| {
        let is_taken = pick.takes(blob);
        plan.bytes_total -= if is_taken { 0 } else { blob.size };
        is_taken
    });
    Ok(plan)
}

/// Which blob becomes which file.
fn placements(pick: &Pick, files: &[(File, Content)]) -> Vec<Placement> {
    let files = files.iter().zip(&pick.paths).map(|((_, content), path)| (content.blob(), path));
    let config = pick.config.iter().map(|path| (pick.target.artifact.config.clone(), path));
    let manifest = pick.manifest.iter().map(|path| (pick.target.manifest.clone(), path));
    files.chain(config).chain(manifest).map(|(blob, path)| Placement { blob, path: path.clone() }).collect()
}

/// A directory that is pulled into, and that nobody else pulls into.
struct Site {
    dir: PathBuf,
    work: PathBuf,
    cache: Cache,
    /// Whether directory and work directory were there before.
    found: (bool, bool),
    /// None where the file system has no locks.
    lock: Option<DirLock>,
}

impl Site {
    fn open(dir: &Path) -> Result<Self, PublishError> {
        let work = dir.join(WORK_DIR);
        let found = (dir.is_dir(), work.is_dir());
        if !found.0 {
            if let Ok(other) = dir.symlink_metadata() {
                return Err(PublishError::InTheWay { path: dir.to_owned(), what: kind_of(other.file_type()) });
            }
            create_user_dir(dir)?;
        }
        private_dir(&work)?;
        let lock = DirLock::acquire_if_supported(&work.join("lock")).map_err(|error| PublishError::lock(dir, error))?;
        let cache = Cache::open(&work)?;
        Ok(Self { dir: dir.to_owned(), work, cache, found, lock })
    }

    /// What did not come, with where the room went on a disk that is full.
    fn explain(&self, error: TransferError) -> PublishError {
        if error.kind() == Kind::DiskFull {
            PublishError::Full { work: self.work.clone(), source: Box::new(error) }
        } else {
            error.into()
        }
    }

    /// Removes what this pull has made, unless an earlier one has left something.
    fn abandon(self) -> Result<(), PublishError> {
        if !self.found.1 {
            remove_locked_dir(&self.work, self.lock)?;
        }
        if !self.found.0 {
            // Where something else is in it by now, it stays.
            let _ = remove_dir(&self.dir);
        }
        Ok(())
    }

    /// Gives all files their names, and cleans up.
    fn finish(self, placements: &[Placement]) -> Result<(), PublishError> {
        let staged = self.stage(placements)?;
        for (staged, placement) in staged.iter().zip(placements) {
            rename(staged, &placement.path)?;
        }
        Ok(remove_locked_dir(&self.work, self.lock)?)
    }

    /// Lays the files out, each with bytes of its own: whoever writes to one file must not change another. The blobs
    /// stay until all is in place, so that a crash in between costs no second download.
    fn stage(&self, placements: &[Placement]) -> Result<Vec<PathBuf>, PublishError> {
        let dir = self.work.join("files");
        remove_dir_all(&dir)?;
        create_dir(&dir, 0o700)?;
        // That of a user's new files, whatever the umask was when a blob was fetched.
        let mode = new_file_mode(&dir)?;
        let mut seen = BTreeSet::new();
        let mut staged = Vec::with_capacity(placements.len());
        for placement in placements {
            let (blob, path) =
                (self.cache.path(&placement.blob.digest), self.waiting_place(&dir, staged.len(), placement)?);
            if seen.insert(placement.blob.digest) {
                share(&blob, &path)?;
                set_mode(&path, mode)?;
            } else {
                copy(&blob, &path, mode)?;
            }
            staged.push(path);
        }
        Ok(staged)
    }
    /// Where a file waits to be renamed: in the work directory, or beside its place where that is elsewhere, which may be
    /// on another file system.
    fn waiting_place(&self, dir: &Path, number: usize, placement: &Placement) -> Result<PathBuf, PublishError> {
        let place = parent(&placement.path);
        if place == self.dir {
            return Ok(dir.join(number.to_string()));
        }
        if !place.is_dir() {
            create_user_dir(&place)?;
        }
        let mut name = std::ffi::OsString::from(".");
        name.push(placement.path.file_name().unwrap_or_default());
        name.push(WORK_DIR);
        let path = place.join(name);
        remove_file(&path)?;
        Ok(path)
    }
}
