//! When to read the desired-state file again.
//!
//! A file is watched through its directory, because it is replaced by rename as often as it is written in place. Where
//! the path leads through symbolic links (as config management and `ConfigMap` mounts set them), the directory of each
//! link is watched too; where a directory does not exist yet, its nearest ancestor is.
//!
//! The file's own inode is watched as well. A file that is bind-mounted or hard-linked is also written by its other
//! name, and the directory of this name does not notice that.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::places::{MAX_LINKS, Places, places};

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
    /// The file whose inode is watched.
    file: Option<PathBuf>,
    /// Whether some directory on the way cannot be watched.
    blind: bool,
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
        let mut watcher = Self { path: path.to_owned(), debounce, signals, places, inner, file: None, blind: false };
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

    /// Watches anew all that is on the way to the file. A mount over a directory or the file shows in no event; call this before
    /// a read that no event asked for.
    pub fn refresh(&mut self) {
        let (was_blind, dirs) = (self.blind, self.places().dirs.clone());
        for dir in &dirs {
            self.watch(dir, was_blind);
        }
        self.follow();
    }

    /// Watches what is on the way to the file now, and says whether a directory came into view. A directory may appear
    /// while others are being added, so it goes on until nothing is new.
    fn follow(&mut self) -> bool {
        let was_blind = std::mem::take(&mut self.blind);
        let moved = self.follow_dirs(was_blind);
        self.follow_file(was_blind);
        moved
    }

    fn follow_dirs(&mut self, was_blind: bool) -> bool {
        let mut moved = false;
        for round in 0..MAX_LINKS {
            let wanted = places(&self.path);
            // The lock is let go before the watches change: the thread that changes them may be waiting for it, in
            // the middle of an event.
            let present = std::mem::replace(&mut *self.places(), wanted.clone());
            if present == wanted && !(was_blind && round == 0) {
                break;
            }
            moved |= !present.dirs.is_empty() && !wanted.dirs.is_subset(&present.dirs);
            for gone in present.dirs.difference(&wanted.dirs) {
                self.unwatch(gone);
            }
            for dir in &wanted.dirs {
                // Watching again what is watched is cheap, and right where a directory was replaced by another.
                self.watch(dir, was_blind);
            }
            if self.blind {
                break;
            }
        }
        moved
    }

    /// Watches the inode that has the file's name now. The watch on the one before is removed first: a late event of a
    /// deleted inode would take the new watch with it. What is written in between is read, as a read follows.
    fn follow_file(&mut self, was_blind: bool) {
        if let Some(file) = self.file.take() {
            self.unwatch(&file);
        }
        let file = self.places().file.clone();
        self.file = file.filter(|file| self.watch(file, was_blind));
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unwatch(&mut self, path: &Path) {
        if let Some(inner) = &mut self.inner {
            let _ = inner.unwatch(path);
        }
    }

    /// Watches `path`; false if that fails. A failure is logged unless the watcher `was_blind` before.
    fn watch(&mut self, path: &Path, was_blind: bool) -> bool {
        let Some(inner) = &mut self.inner else { return false };
        match inner.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => true,
            // The path has gone since; the next round sees that.
            Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => false,
            // The file cannot be read either, and the read is retried.
            Err(error) if is_forbidden(&error) && self.places().file.as_deref() == Some(path) => false,
            Err(error) => {
                self.blind = true;
                if !was_blind {
                    let path = path.display();
                    tracing::warn!(%path, %error, "cannot be watched; looking every {FALLBACK:?} as well");
                }
                false
            }
        }
    }
}

fn is_forbidden(error: &notify::Error) -> bool {
    matches!(&error.kind, ErrorKind::Io(error) if error.kind() == io::ErrorKind::PermissionDenied)
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

    /// Discards the remaining signals of a change.
    async fn quiet(watcher: &mut Watcher) {
        while timeout(Duration::from_millis(100), watcher.changed()).await.is_ok() {}
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
    async fn a_write_by_another_name_is_noticed() {
        let (_guard, dir) = dir();
        let (desired, other) = (dir.join("etc/desired.toml"), dir.join("elsewhere/other"));
        fs::create_dir(dir.join("etc")).unwrap();
        fs::create_dir(dir.join("elsewhere")).unwrap();
        // In view from the start, once it appears, and once it was replaced by another inode.
        fs::write(&desired, "x").unwrap();
        fs::hard_link(&desired, &other).unwrap();
        let mut watcher = Watcher::new(&desired, Duration::from_millis(20));
        for round in 0..4 {
            fs::write(&other, "by its other name").unwrap();
            noticed(&mut watcher).await;
            if round % 2 == 0 {
                fs::remove_file(&desired).unwrap();
                noticed(&mut watcher).await;
            }
            fs::write(dir.join("etc/new"), "replaced").unwrap();
            fs::remove_file(&other).unwrap();
            fs::hard_link(dir.join("etc/new"), &other).unwrap();
            fs::rename(dir.join("etc/new"), &desired).unwrap();
            noticed(&mut watcher).await;
            quiet(&mut watcher).await;
        }
    }

    #[tokio::test]
    async fn a_swapped_link_is_watched_by_its_inode() {
        let (_guard, dir) = dir();
        for version in ["v1", "v2"] {
            fs::create_dir(dir.join(version)).unwrap();
            fs::write(dir.join(version).join("desired.toml"), version).unwrap();
            fs::hard_link(dir.join(version).join("desired.toml"), dir.join(format!("{version}-other"))).unwrap();
        }
        symlink("v1", dir.join("data")).unwrap();
        let mut watcher = Watcher::new(&dir.join("data/desired.toml"), Duration::from_millis(20));
        symlink("v2", dir.join("tmp")).unwrap();
        fs::rename(dir.join("tmp"), dir.join("data")).unwrap();
        noticed(&mut watcher).await;
        quiet(&mut watcher).await;
        fs::write(dir.join("v2-other"), "in place").unwrap();
        noticed(&mut watcher).await;
        quiet(&mut watcher).await;
        fs::write(dir.join("v1-other"), "of no interest").unwrap();
        assert!(timeout(Duration::from_millis(200), watcher.changed()).await.is_err(), "the old inode is let go");
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
}
