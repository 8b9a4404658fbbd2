//! A state directory that no agent holds, for the commands that work on it themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::DaemonError;
use super::restore::restore;
use super::status::{Snapshot, Status};
use super::store::Store;
use crate::cache::{Cache, Usage};
use crate::config::Settings;
use crate::deploy::{Aim, Collector, Generations, Links, Report, Wanted};
use crate::durable::DirLock;

/// What the directory says of the agent's status, or where the agent does not answer. Nothing is changed.
pub fn offline_status(settings: &Settings) -> Result<Status, DaemonError> {
    let dir = &settings.state_dir;
    let generations = Generations::at(dir);
    let links = Links::at(dir);
    let state = Arc::new(restore(Store::new(dir).peek()?, &generations, &links)?);
    let usage = Usage::of(&dir.join("cache")).unwrap_or_default();
    let snapshot = Snapshot { state, progress: BTreeMap::new() };
    Ok(Status::new(&snapshot, None, &settings.desired.path, usage))
}

/// Collects what nothing leads to, or only looks. Takes the directory's lock meanwhile. Blocks.
pub fn offline_collect(settings: &Settings, dry_run: bool) -> Result<Report, DaemonError> {
    let dir = &settings.state_dir;
    let _lock = DirLock::acquire(&dir.join("lock"))?;
    let (generations, links) = (Generations::open(dir)?, Links::open(dir)?);
    let state = restore(Store::new(dir).peek()?, &generations, &links)?;
    let wanted = Wanted::default();
    wanted.set(state.wants());
    let collector = Collector::new(Cache::open(dir)?, generations, links, wanted, settings.cache.keep);
    Ok(if dry_run { collector.look(Aim::Tidy)? } else { collector.collect(Aim::Tidy)? })
}
