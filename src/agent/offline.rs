//! A state directory that no agent holds, for the commands that work on it themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::DaemonError;
use super::access;
use super::fsck::{self, FsckOrder};
use super::restore::restore;
use super::status::{Snapshot, Status};
use super::store::Store;
use super::suitability::check_mounts;
use crate::blocking;
use crate::cache::{Cache, Usage};
use crate::config::Settings;
use crate::deploy::fsck::{Mender, Report as FsckReport};
use crate::deploy::{Admission, Aim, Collector, Generations, Links, Report, Wanted, Window};
use crate::durable::{DirLock, check_state_dir};
use crate::failure::Failure;
use crate::registry::{Caller, Registries};
use crate::transfer::{Fetcher, Progress, Unpacking};

/// What the directory says of the agent's status, or where the agent does not answer. Nothing is changed.
pub fn offline_status(settings: &Settings) -> Result<Status, DaemonError> {
    let dir = &settings.state_dir;
    let generations = Generations::at(dir);
    let links = Links::at(dir);
    let state = Arc::new(restore(Store::new(dir).peek()?, &generations, &links)?);
    let usage = Usage::of(&dir.join("cache")).unwrap_or_default();
    let window = settings.window.clone().map(Window::new);
    let snapshot = Snapshot { state, progress: BTreeMap::new(), trouble: None, window };
    let in_use = generations.in_use().unwrap_or_default();
    Ok(Status::new(&snapshot, None, &settings.desired.path, usage, &in_use, fsck::last(dir)))
}

/// Collects what nothing leads to, or only looks. Takes the directory's lock meanwhile. Blocks.
pub fn offline_collect(settings: &Settings, dry_run: bool) -> Result<Report, DaemonError> {
    let opened = open(settings)?;
    Ok(if dry_run { opened.collector.look(Aim::Tidy)? } else { opened.collector.collect(Aim::Tidy)? })
}

/// Looks at everything on disk, and repairs it where `order` says so. Takes the directory's lock meanwhile. `begun` is told
/// how far it is.
pub async fn offline_fsck(
    settings: Settings,
    order: FsckOrder,
    begun: impl FnOnce(&Arc<Progress>) + Send + 'static,
) -> Result<FsckReport, Failure> {
    let with = settings.clone();
    let opened = blocking::run(move || open(&with)).await?;
    let mender = Mender {
        registries: Arc::new(Registries::new(&settings, Caller::User)),
        fetcher: Fetcher::new(opened.cache, &settings.transfer),
        unpacking: Unpacking::new(&settings),
        admission: Admission::new(opened.collector),
        generations: opened.generations,
        links: opened.links,
    };
    let report = fsck::look(&mender, &Store::new(&settings.state_dir), order, &CancellationToken::new(), begun).await?;
    fsck::note_in(&settings.state_dir, &report).await;
    Ok(report)
}

/// A state directory whose lock this process has.
struct Opened {
    cache: Cache,
    generations: Generations,
    links: Links,
    collector: Collector,
    _lock: DirLock,
}

fn open(settings: &Settings) -> Result<Opened, DaemonError> {
    let dir = &settings.state_dir;
    let store = Store::new(dir);
    // Before anything is touched: what a newer version has left is not ours to change.
    store.peek()?;
    // Nor is anything made where no agent has been: the directory may be another than was meant.
    if !["state.json", "cache", "generations", "workloads"].iter().any(|name| dir.join(name).exists()) {
        return Err(DaemonError::Absent(dir.clone()));
    }
    let access = access::resolve(settings.cache.access)?;
    let lock = DirLock::acquire(&dir.join("lock"))?;
    check_state_dir(dir)?;
    if lock.follows_unversioned() {
        Generations::count_directory_locks(dir)?;
    }
    let cache = Cache::open_for(dir, access)?;
    let (generations, links) = (Generations::open_for(dir, access)?, Links::open(dir)?);
    check_mounts(&cache, dir)?;
    generations.sweep()?;
    cache.set_reserve(settings.cache.reserve);
    let state = restore(store.peek()?, &generations, &links)?;
    let wanted = Wanted::default();
    wanted.set(state.wants());
    let keep = settings.cache.keep;
    let collector = Collector::new(cache.clone(), generations.clone(), links.clone(), wanted, keep);
    Ok(Opened { cache, generations, links, collector, _lock: lock })
}
