//! `current` and `previous`: the links that say which generation counts.
//!
//! `workloads/<name>/current` is the truth. The workload "default" has the links a second time at the top of the state
//! directory; a crash between the two is mended when the agent starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::desired::WorkloadName;
use crate::durable::{
    DurableError, create_dir, read_link, remove_dir, remove_link, swap_link, swap_links, sweep_temporaries, sync_dir,
};

const CURRENT: &str = "current";
const PREVIOUS: &str = "previous";
/// The way from the links of a workload to the state directory.
const UP: &str = "../..";

/// The links of all workloads. Cheap to clone; clones take turns.
#[derive(Clone, Debug)]
pub struct Links {
    state_dir: PathBuf,
    /// Held while links are changed: a collection beside an activation would put back at the top what it had read before.
    changing: Arc<Mutex<()>>,
}

impl Links {
    /// The links in the state directory `state_dir`, without what a crash has left beside them: it would keep the directory
    /// of a workload that is gone. What they say is durable from now on: an agent that ended between a change and its
    /// sync has left it open, and what they do not lead to may be about to go.
    pub fn open(state_dir: &Path) -> Result<Self, DurableError> {
        // This syncs the state directory as well, with the links at the top.
        create_dir(&state_dir.join("workloads"), 0o755)?;
        let links = Self::at(state_dir);
        sweep_temporaries(state_dir, |_| false)?;
        for dir in links.workloads().into_iter().map(|workload| links.dir(&workload)).filter(|dir| dir.is_dir()) {
            sweep_temporaries(&dir, |_| false)?;
            sync_dir(&dir)?;
        }
        Ok(links)
    }

    /// The same for a reader, which makes nothing.
    pub fn at(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), changing: Arc::default() }
    }

    /// The generation that `current` points at.
    pub fn current(&self, workload: &WorkloadName) -> Result<Option<u64>, DurableError> {
        generation(&self.dir(workload).join(CURRENT), UP, workload)
    }

    /// The generation that `previous` points at.
    pub fn previous(&self, workload: &WorkloadName) -> Result<Option<u64>, DurableError> {
        generation(&self.dir(workload).join(PREVIOUS), UP, workload)
    }

    /// When `current` was set: the link's own time.
    pub fn activated_at(&self, workload: &WorkloadName) -> Option<jiff::Timestamp> {
        let modified = fs::symlink_metadata(self.dir(workload).join(CURRENT)).ok()?.modified().ok()?;
        modified.try_into().ok()
    }

    /// The workloads that have links.
    pub fn workloads(&self) -> Vec<WorkloadName> {
        let entries = fs::read_dir(self.state_dir.join("workloads")).into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Points `current` at `generation` and `previous` at `previous`; both are complete and durable. Where there is no
    /// previous one, that link goes. A crash in between may keep either move without the other: both links point at
    /// complete generations all the same.
    pub fn activate(
        &self,
        workload: &WorkloadName,
        generation: u64,
        previous: Option<u64>,
    ) -> Result<(), DurableError> {
        let _turn = self.turn();
        let dir = self.dir(workload);
        create_dir(&dir, 0o755)?;
        swap(&dir, UP, workload, previous, generation)?;
        self.repeat_at_top(workload)
    }

    /// Removes `previous`, durably: its generation is about to go.
    pub fn forget_previous(&self, workload: &WorkloadName) -> Result<(), DurableError> {
        let _turn = self.turn();
        remove_link(&self.dir(workload).join(PREVIOUS))?;
        self.repeat_at_top(workload)
    }

    /// Removes the links of a workload.
    pub fn retire(&self, workload: &WorkloadName) -> Result<(), DurableError> {
        let _turn = self.turn();
        let dir = self.dir(workload);
        remove_link(&dir.join(CURRENT))?;
        remove_link(&dir.join(PREVIOUS))?;
        self.repeat_at_top(workload)?;
        match remove_dir(&dir) {
            // Something else in the directory is not ours to remove; the links are gone.
            Err(error) if error.io().kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed,
        }
    }

    /// Whether the links at the top say what those of the workload "default" say.
    pub fn is_mirrored(&self) -> Result<bool, DurableError> {
        let workload = WorkloadName::default_name();
        let top = |name: &str| generation(&self.state_dir.join(name), "", &workload);
        Ok(top(CURRENT)? == self.current(&workload)? && top(PREVIOUS)? == self.previous(&workload)?)
    }

    /// Makes the links at the top say what those of the workload "default" say.
    pub fn mirror(&self, workload: &WorkloadName) -> Result<(), DurableError> {
        let _turn = self.turn();
        self.repeat_at_top(workload)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn repeat_at_top(&self, workload: &WorkloadName) -> Result<(), DurableError> {
        if *workload != WorkloadName::default_name() {
            return Ok(());
        }
        let top = |name: &str| self.state_dir.join(name);
        let (previous, current) = (self.previous(workload)?, self.current(workload)?);
        if generation(&top(PREVIOUS), "", workload)?.is_some_and(|_| previous.is_none()) {
            remove_link(&top(PREVIOUS))?;
        }
        match current {
            None => remove_link(&top(CURRENT)),
            Some(current)
                if generation(&top(CURRENT), "", workload)? == Some(current)
                    && generation(&top(PREVIOUS), "", workload)? == previous =>
            {
                Ok(())
            }
            Some(current) => swap(&self.state_dir, "", workload, previous, current),
        }
    }

    fn dir(&self, workload: &WorkloadName) -> PathBuf {
        self.state_dir.join("workloads").join(workload.as_str())
    }
}

/// The generation of `workload` that a link points at. A link that leads elsewhere is none of ours.
fn generation(link: &Path, up: &str, workload: &WorkloadName) -> Result<Option<u64>, DurableError> {
    let number = |found: PathBuf| {
        let number = found.file_name()?.to_str()?.parse().ok()?;
        (found == target(up, workload, number)).then_some(number)
    };
    Ok(read_link(link)?.and_then(number))
}

/// Where a link to a generation leads, from a directory from which `up` leads to the state directory.
fn target(up: &str, workload: &WorkloadName, generation: u64) -> PathBuf {
    Path::new(up).join("generations").join(workload.as_str()).join(generation.to_string())
}

/// Swaps the links in `dir`, from which `up` leads to the state directory.
fn swap(
    dir: &Path,
    up: &str,
    workload: &WorkloadName,
    previous: Option<u64>,
    current: u64,
) -> Result<(), DurableError> {
    let target = |generation| target(up, workload, generation);
    let (new, link) = (target(current), dir.join(CURRENT));
    match previous {
        None => {
            swap_link(&new, &link)?;
            remove_link(&dir.join(PREVIOUS))
        }
        Some(previous) => swap_links((&target(previous), &dir.join(PREVIOUS)), (&new, &link)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(dir: &Path, link: &str) -> Option<PathBuf> {
        fs::read_link(dir.join(link)).ok()
    }

    #[test]
    fn the_default_workload_has_both_forms() {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::open(dir.path()).unwrap();
        let name = WorkloadName::default_name();
        links.activate(&name, 6, None).unwrap();
        links.activate(&name, 7, Some(6)).unwrap();
        assert_eq!(resolved(dir.path(), "current").unwrap(), Path::new("generations/default/7"));
        assert_eq!(resolved(dir.path(), "previous").unwrap(), Path::new("generations/default/6"));
        assert_eq!(
            resolved(dir.path(), "workloads/default/current").unwrap(),
            Path::new("../../generations/default/7")
        );
        assert_eq!((links.current(&name).unwrap(), links.previous(&name).unwrap()), (Some(7), Some(6)));
        links.activate(&name, 6, None).unwrap();
        assert_eq!(resolved(dir.path(), "current").unwrap(), Path::new("generations/default/6"));
        assert_eq!(
            (resolved(dir.path(), "previous"), links.previous(&name).unwrap()),
            (None, None),
            "the way back is gone"
        );
        links.retire(&name).unwrap();
        assert_eq!(resolved(dir.path(), "current"), None);
        assert!(links.workloads().is_empty());
    }

    #[test]
    fn a_crash_between_the_forms_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::open(dir.path()).unwrap();
        let name = WorkloadName::default_name();
        links.activate(&name, 1, None).unwrap();
        swap_link(Path::new("../../generations/default/2"), &dir.path().join("workloads/default/current")).unwrap();
        links.mirror(&name).unwrap();
        assert_eq!(resolved(dir.path(), "current").unwrap(), Path::new("generations/default/2"));
    }

    #[test]
    fn the_top_says_the_same_whatever_is_changed_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (links, name) = (Links::open(dir.path()).unwrap(), WorkloadName::default_name());
        links.activate(&name, 1, None).unwrap();
        for n in 2..40 {
            std::thread::scope(|scope| {
                scope.spawn(|| links.clone().activate(&name, n, Some(n - 1)).unwrap());
                scope.spawn(|| links.clone().forget_previous(&name).unwrap());
            });
            assert_eq!(resolved(dir.path(), "current").unwrap(), Path::new("generations/default").join(n.to_string()));
        }
    }

    #[test]
    fn other_workloads_leave_the_top_alone() {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::open(dir.path()).unwrap();
        links.activate(&"router".parse().unwrap(), 1, None).unwrap();
        assert_eq!(resolved(dir.path(), "current"), None);
    }
}
