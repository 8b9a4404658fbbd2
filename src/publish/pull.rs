//! An image back into files. Everything is fetched and verified in a hidden work directory beside them, and only then
//! renamed into place: a file under its own name is whole, and an interrupted pull is taken up by the next one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::blocking;
use super::{Observer, PublishError};
use crate::cache::Cache;
use crate::config::Settings;
use crate::durable::{DirLock, IoContext, copy, create_dir, remove_dir_all, rename, share};
use crate::eci::{self, File};
use crate::oci::{Descriptor, Digest, Platform, Reference};
use crate::registry::{Registries, Source};
use crate::transfer::{Fetcher, Plan, Progress, Target, Unpacking, explain, resolve};
use crate::unpack::Content;

/// Where an unfinished pull keeps what it has, in the directory that it pulls into.
const WORK_DIR: &str = ".eci-pull";
/// What config and manifest are called.
const CONFIG: &str = "config.json";
const MANIFEST: &str = "manifest.json";
/// A person's own files.
const FILE_MODE: u32 = 0o644;

/// What was pulled.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// What the reference turned out to be.
    pub target: Target,
    /// The files, in the manifest's order, then config and manifest.
    pub files: Vec<PathBuf>,
}

/// A verified blob, and the file that it becomes.
#[derive(Clone, Debug)]
struct Placement {
    blob: Digest,
    path: PathBuf,
}

/// Pulls the image `reference` into `dir`, which is made where it does not exist. Files of the same names are replaced.
pub async fn pull(
    settings: &Settings,
    reference: &Reference,
    platform: &Platform,
    dir: &Path,
    observer: &dyn Observer,
) -> Result<Pulled, PublishError> {
    let source = Registries::new(settings).source(reference)?;
    let place = dir.to_owned();
    let site = blocking(move || Site::open(&place)).await?;
    let name = reference.to_string();
    let (target, plan) = match prepare(settings, &source, &name, platform, &site).await {
        Ok(prepared) => prepared,
        Err(error) => {
            // Nothing came yet that would be worth keeping.
            let _ = blocking(move || site.abandon()).await;
            return Err(error);
        }
    };
    let fetcher = Fetcher::new(site.cache.clone());
    for blob in &plan.missing {
        let progress = Arc::new(Progress::new(blob.size, 0));
        observer.begin(title(&target, blob), &progress);
        let outcome = fetcher.fetch(&source, &name, std::slice::from_ref(blob), &progress).await;
        observer.end();
        if let Err(error) = outcome {
            return Err(explain(&source, &target, error).await.into());
        }
    }
    if plan.unpack {
        let progress = Arc::new(Progress::new(plan.bytes_total, plan.bytes_present));
        observer.begin("layers", &progress);
        let outcome = fetcher.unpack(&source, &name, &target, Unpacking::new(settings), &progress).await;
        observer.end();
        if let Err(error) = outcome {
            return Err(explain(&source, &target, error).await.into());
        }
    }
    let image = target.clone();
    let files = blocking(move || {
        let placements = placements(&image, &site.dir, &image.files(&site.cache, &name)?);
        let files = placements.iter().map(|placement| placement.path.clone()).collect();
        site.finish(&placements)?;
        Ok(files)
    })
    .await?;
    Ok(Pulled { target, files })
}

/// All that can be refused before anything large is fetched.
async fn prepare(
    settings: &Settings,
    source: &Source,
    name: &str,
    platform: &Platform,
    site: &Site,
) -> Result<(Target, Plan), PublishError> {
    let target = resolve(source, &site.cache, name, platform, None).await?;
    let names = target.artifact.files.iter().map(|file| file.name.as_str()).chain([CONFIG, MANIFEST]);
    if let Some(taken) = names.map(|name| site.dir.join(name)).find(|path| path.is_dir()) {
        return Err(PublishError::InTheWay(taken));
    }
    let plan = Plan::new(&site.cache, &target, settings.transfer.max_file_bytes).await?;
    Ok((target, plan))
}

/// Which blob becomes which file.
fn placements(target: &Target, dir: &Path, files: &[(File, Content)]) -> Vec<Placement> {
    let files = files.iter().map(|(file, content)| (content.digest, file.name.as_str()));
    let documents = [(target.artifact.config.digest, CONFIG), (target.manifest.digest, MANIFEST)];
    files.chain(documents).map(|(blob, name)| Placement { blob, path: dir.join(name) }).collect()
}

fn title<'a>(target: &'a Target, blob: &Descriptor) -> &'a str {
    let is_it = |file: &&File| matches!(&file.source, eci::Source::Blob(other) if other.digest == blob.digest);
    target.artifact.files.iter().find(is_it).map_or(CONFIG, |file| file.name.as_str())
}

/// A directory that is pulled into, and that nobody else pulls into.
struct Site {
    dir: PathBuf,
    work: PathBuf,
    cache: Cache,
    /// Whether directory and work directory were there before.
    found: (bool, bool),
    _lock: DirLock,
}

impl Site {
    fn open(dir: &Path) -> Result<Self, PublishError> {
        let work = dir.join(WORK_DIR);
        let found = (dir.is_dir(), work.is_dir());
        if !found.0 {
            create_dir(dir, 0o755)?;
        }
        create_dir(&work, 0o700)?;
        let lock = DirLock::acquire(&work.join("lock")).map_err(|error| PublishError::lock(dir, error))?;
        let cache = Cache::open(&work)?;
        Ok(Self { dir: dir.to_owned(), work, cache, found, _lock: lock })
    }

    /// Removes what this pull has made, unless an earlier one has left something.
    fn abandon(self) -> Result<(), PublishError> {
        if !self.found.1 {
            remove_dir_all(&self.work)?;
        }
        if !self.found.0 {
            // Where something else is in it by now, it stays.
            let _ = fs::remove_dir(&self.dir);
        }
        Ok(())
    }

    /// Gives all files their names, and cleans up.
    fn finish(self, placements: &[Placement]) -> Result<(), PublishError> {
        let staged = self.stage(placements)?;
        for (staged, placement) in staged.iter().zip(placements) {
            rename(staged, &placement.path)?;
        }
        Ok(remove_dir_all(&self.work)?)
    }

    /// Lays the files out, each with bytes of its own: whoever writes to one file must not change another. The blobs
    /// stay until all is in place, so that a crash in between costs no second download.
    fn stage(&self, placements: &[Placement]) -> Result<Vec<PathBuf>, PublishError> {
        let dir = self.work.join("files");
        remove_dir_all(&dir)?;
        create_dir(&dir, 0o700)?;
        let mut seen = BTreeSet::new();
        let mut staged = Vec::with_capacity(placements.len());
        for placement in placements {
            let (blob, path) = (self.cache.path(&placement.blob), dir.join(staged.len().to_string()));
            if seen.insert(placement.blob) {
                share(&blob, &path)?;
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(FILE_MODE))
                    .on("set the mode of", &path)?;
            } else {
                copy(&blob, &path, FILE_MODE)?;
            }
            staged.push(path);
        }
        Ok(staged)
    }
}
