//! When to read the desired-state file again.
//!
//! A file is watched through its directory, because it is replaced by rename as often as it is written in place. Where
//! the path leads through symbolic links (as config management and `ConfigMap` mounts set them), the directory of each
//! link is watched too; where a directory does not exist yet, its nearest ancestor is.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;
/// How often the file is looked at where it cannot be watched (no inotify instances or watches left, say).
const FALLBACK: Duration = Duration::from_secs(10);

/// What an event means for the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// Something complete took the file's place: act at once.
    Whole,
    /// The file is being written or its surroundings change: wait until it is quiet.
    Writing,
}

/// Watches one file, which need not exist.
pub struct Watcher {
    path: PathBuf,
    debounce: Duration,
    signals: mpsc::Receiver<Signal>,
    places: Arc<Mutex<Places>>,
    /// None where the system lets us watch nothing.
    inner: Option<RecommendedWatcher>,
    /// Whether some directory on the way cannot be watched.
    blind: bool,
}

/// What matters on the way to the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Places {
    /// Directories to watch.
    dirs: BTreeSet<PathBuf>,
    /// Names in them whose change matters: links on the way, the file, or the first that is missing.
    names: BTreeSet<PathBuf>,
}

impl Watcher {
    /// Watches `path`. A file written in place counts as changed once it was quiet for `debounce`.
    pub fn new(path: &Path, debounce: Duration) -> Self {
        // Signals that find the channel full are not missed: a read follows those that are in it.
        let (sender, signals) = mpsc::channel(16);
        let places = Arc::new(Mutex::new(Places::default()));
        let seen = Arc::clone(&places);
        let inner = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let signal = match event {
                Ok(event) => signal(&event, &seen.lock().unwrap_or_else(PoisonError::into_inner)),
                Err(_) => Some(Signal::Writing),
            };
            if let Some(signal) = signal {
                let _ = sender.try_send(signal);
            }
        });
        let inner = inner
            .inspect_err(|error| tracing::warn!(%error, "files cannot be watched; looking every {FALLBACK:?} instead"))
            .ok();
        let mut watcher = Self { path: path.to_owned(), debounce, signals, places, inner, blind: false };
        watcher.follow();
        watcher
    }

    /// Waits until the file should be read again. Cancelling the wait loses no change only if the caller reads after
    /// it; one task owns the watcher.
    pub async fn changed(&mut self) {
        let mut quiet_at = None;
        if self.blind {
            self.follow();
        }
        while self.inner.is_some() {
            let signal = match quiet_at.or_else(|| self.blind.then(|| Instant::now() + FALLBACK)) {
                None => self.signals.recv().await,
                Some(at) => match timeout_at(at, self.signals.recv()).await {
                    Ok(signal) => signal,
                    Err(_) => return,
                },
            };
            let moved = self.follow();
            match signal {
                Some(Signal::Whole) if !moved => return,
                // A directory that has just come into view may be half filled.
                Some(_) => quiet_at = Some(Instant::now() + self.debounce),
                // The watching thread is gone.
                None => self.inner = None,
            }
        }
        sleep(FALLBACK).await;
    }

    /// Watches what is on the way to the file now, and says whether a directory came into view. A directory may appear
    /// while others are being added, so it goes on until nothing is new.
    fn follow(&mut self) -> bool {
        let Some(inner) = &mut self.inner else { return false };
        let mut moved = false;
        for _ in 0..MAX_LINKS {
            let wanted = places(&self.path);
            // The lock is let go before the watches change: the thread that changes them may be waiting for it, in
            // the middle of an event.
            let present = {
                let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::replace(&mut *places, wanted.clone())
            };
            if present == wanted && !self.blind {
                break;
            }
            let was_blind = std::mem::take(&mut self.blind);
            moved |= !present.dirs.is_empty() && !wanted.dirs.is_subset(&present.dirs);
            for gone in present.dirs.difference(&wanted.dirs) {
                let _ = inner.unwatch(gone);
            }
            for dir in &wanted.dirs {
                // Watching again what is watched is cheap, and right where a directory was replaced by another.
                match inner.watch(dir, RecursiveMode::NonRecursive) {
                    Ok(()) => {}
                    // It has gone since; the next round sees that.
                    Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => {}
                    Err(error) => {
                        self.blind = true;
                        if !was_blind {
                            let dir = dir.display();
                            tracing::warn!(%dir, %error, "cannot be watched; looking every {FALLBACK:?} as well");
                        }
                    }
                }
            }
            if self.blind {
                break;
            }
        }
        moved
    }
}

fn signal(event: &Event, places: &Places) -> Option<Signal> {
    if event.need_rescan() {
        return Some(Signal::Writing);
    }
    let concerns = |path: &PathBuf| places.names.contains(path) || places.dirs.contains(path);
    let path = event.paths.iter().rev().find(|path| concerns(path))?;
    match event.kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => Some(Signal::Whole),
        EventKind::Create(_) if path.is_symlink() => Some(Signal::Whole),
        EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Signal::Writing),
        EventKind::Any | EventKind::Access(_) | EventKind::Other => None,
    }
}

/// Walks `path` as the kernel does, noting each link and the last name.
fn places(path: &Path) -> Places {
    let mut places = Places::default();
    let mut here = PathBuf::from("/");
    let mut rest: Vec<PathBuf> = names(path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == Path::new("..") {
            here.pop();
            continue;
        }
        let next = here.join(&name);
        match std::fs::read_link(&next) {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                places.dirs.insert(here.clone());
                places.names.insert(next);
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                rest.extend(names(&target));
            }
            _ if rest.is_empty() || !next.exists() => {
                places.dirs.insert(here.clone());
                places.names.insert(next);
                break;
            }
            _ => here = next,
        }
    }
    places
}

/// The names in `path`, last first.
fn names(path: &Path) -> Vec<PathBuf> {
    let wanted = |component: &Component| matches!(component, Component::Normal(_) | Component::ParentDir);
    path.components().filter(wanted).map(|component| PathBuf::from(component.as_os_str())).rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tokio::time::timeout;

    /// Far longer than any of these takes; only a failure waits for it.
    const SOON: Duration = Duration::from_secs(20);
    /// So long that only a signal that needs no quiet can end the wait in time.
    const NEVER: Duration = Duration::from_secs(3600);

    fn dir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        (dir, path)
    }

    async fn noticed(watcher: &mut Watcher) {
        timeout(SOON, watcher.changed()).await.expect("the change is noticed");
    }

    #[tokio::test]
    async fn a_rename_is_acted_on_at_once() {
        let (_guard, dir) = dir();
        let mut watcher = Watcher::new(&dir.join("desired.toml"), NEVER);
        for _ in 0..3 {
            fs::write(dir.join("new"), "x").unwrap();
            fs::rename(dir.join("new"), dir.join("desired.toml")).unwrap();
            noticed(&mut watcher).await;
        }
    }

    #[tokio::test]
    async fn a_write_in_place_is_noticed_once_it_is_quiet() {
        let (_guard, dir) = dir();
        fs::write(dir.join("desired.toml"), "x").unwrap();
        let mut watcher = Watcher::new(&dir.join("desired.toml"), Duration::from_millis(20));
        fs::write(dir.join("desired.toml"), "y").unwrap();
        noticed(&mut watcher).await;
        fs::remove_file(dir.join("desired.toml")).unwrap();
        noticed(&mut watcher).await;
    }

    #[tokio::test]
    async fn a_link_swapped_further_up_is_acted_on_at_once() {
        // As a ConfigMap mount does it: desired.toml -> ..data/desired.toml, ..data -> ..v1.
        let (_guard, dir) = dir();
        for version in ["..v1", "..v2"] {
            fs::create_dir(dir.join(version)).unwrap();
            fs::write(dir.join(version).join("desired.toml"), version).unwrap();
        }
        symlink("..v1", dir.join("..data")).unwrap();
        symlink("..data/desired.toml", dir.join("desired.toml")).unwrap();
        let mut watcher = Watcher::new(&dir.join("desired.toml"), Duration::from_millis(20));
        symlink("..v2", dir.join("..tmp")).unwrap();
        fs::rename(dir.join("..tmp"), dir.join("..data")).unwrap();
        noticed(&mut watcher).await;
        fs::write(dir.join("..v2/desired.toml"), "in place").unwrap();
        noticed(&mut watcher).await;
    }

    #[tokio::test]
    async fn a_directory_may_come_later() {
        let (_guard, dir) = dir();
        let mut watcher = Watcher::new(&dir.join("a/b/desired.toml"), Duration::from_millis(20));
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::write(dir.join("a/b/desired.toml"), "x").unwrap();
        noticed(&mut watcher).await;
        fs::rename(dir.join("a/b/desired.toml"), dir.join("a/b/other")).unwrap();
        noticed(&mut watcher).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn links_swapped_in_a_burst_block_nobody() {
        let (_guard, dir) = dir();
        for version in 0..20 {
            fs::create_dir(dir.join(version.to_string())).unwrap();
            fs::write(dir.join(version.to_string()).join("desired.toml"), "x").unwrap();
        }
        symlink("data/desired.toml", dir.join("desired.toml")).unwrap();
        let mut watcher = Watcher::new(&dir.join("desired.toml"), Duration::from_millis(1));
        let mut swapping = tokio::task::spawn_blocking({
            let dir = dir.clone();
            move || {
                for n in 0..2000 {
                    symlink((n % 20).to_string(), dir.join("tmp")).unwrap();
                    fs::rename(dir.join("tmp"), dir.join("data")).unwrap();
                }
            }
        });
        loop {
            tokio::select! {
                () = watcher.changed() => {}
                swapped = &mut swapping => break swapped.unwrap(),
            }
        }
        fs::write(dir.join("new"), "x").unwrap();
        fs::rename(dir.join("new"), dir.join("desired.toml")).unwrap();
        noticed(&mut watcher).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_watched_is_looked_at_now_and_then() {
        let (_guard, dir) = dir();
        let mut watcher = Watcher::new(&dir.join("desired.toml"), NEVER);
        // As where the system has no more watches; the next look finds that it has some again.
        watcher.blind = true;
        let inner = watcher.inner.take();
        let (closed, signals) = mpsc::channel(1);
        drop(closed);
        let watching = std::mem::replace(&mut watcher.signals, signals);
        for _ in 0..3 {
            let begun = Instant::now();
            watcher.changed().await;
            assert_eq!(begun.elapsed(), FALLBACK);
        }
        (watcher.inner, watcher.signals) = (inner, watching);
        fs::write(dir.join("new"), "x").unwrap();
        fs::rename(dir.join("new"), dir.join("desired.toml")).unwrap();
        watcher.changed().await;
        assert!(!watcher.blind);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watching_thread_that_dies_is_replaced_by_looking() {
        let (_guard, dir) = dir();
        let mut watcher = Watcher::new(&dir.join("desired.toml"), NEVER);
        watcher.signals = mpsc::channel(1).1;
        let begun = Instant::now();
        watcher.changed().await;
        assert_eq!(begun.elapsed(), FALLBACK);
    }

    #[test]
    fn other_files_in_the_directory_do_not_matter() {
        let (_guard, dir) = dir();
        let places = places(&dir.join("desired.toml"));
        let event =
            |name: &str| Event::new(EventKind::Modify(ModifyKind::Name(RenameMode::To))).add_path(dir.join(name));
        assert_eq!(signal(&event(".desired.toml.swp"), &places), None);
        assert_eq!(signal(&event("desired.toml"), &places), Some(Signal::Whole));
    }

    #[test]
    fn links_in_a_circle_end() {
        let (_guard, dir) = dir();
        symlink("b", dir.join("a")).unwrap();
        symlink("a", dir.join("b")).unwrap();
        assert!(places(&dir.join("a")).names.len() <= 2);
    }
}
