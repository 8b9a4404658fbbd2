//! The power is cut at any moment of an agent's life: what `current` leads to is whole, what was done is not undone, and the
//! next start gets there without fetching anything twice. `docs/development/durability.md` says how it works.

mod check;
mod expected;
mod left_out;
mod restart;
mod shots;
mod story;
mod taken_up;
mod tree;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use self::check::Disk;
use self::left_out::Sync;
use self::restart::{Restarter, all};
use self::shots::{Instant, Meddle, Shots, copy};
use self::story::{Stage, Story};
use crate::common::agent::Node;
use crate::common::disk_image::{self as disk, BTRFS, EXT4, EXT4_AS_IT_COMES, EXT4_WRITEBACK, Kind, Mounted, XFS};
use crate::common::fault_points::{Answer, arm};
use crate::common::registry::Registry;

/// How many copies are looked at where not all are.
const SAMPLE: usize = 25;
/// How many moments there are at least.
const LEAST: usize = 300;

/// Whether all is tried that there is.
fn is_full() -> bool {
    std::env::var_os("ECI_TEST_FULL").is_some()
}

/// What a story has left.
struct Album {
    /// Where the disk was mounted, and where copies are.
    state_dir: PathBuf,
    dir: tempfile::TempDir,
    kind: Kind,
    instants: Vec<Instant>,
    copies: usize,
    meddled: usize,
}

/// Runs `test` with mounts of its own, and no other of these tests beside it.
fn apart(name: &str, test: impl FnOnce() + Send) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = std::thread::scope(|scope| {
        let run = || {
            if disk::mount_apart(name).is_some() {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let _entered = runtime.enter();
                test();
            }
        };
        scope.spawn(run).join()
    });
    outcome.unwrap_or_else(|panic| resume_unwind(panic));
}

/// The node of a story. Segments of the large disk take long enough to be synced on the way.
fn node() -> Node {
    Node::with_config("[transfer]\nbandwidth = \"6MiB/s\"\n")
}

/// Has the agent of `node` go through `script`, and copies its disk at many moments.
fn take(
    test: &str,
    kind: Kind,
    node: &mut Node,
    meddle: Meddle,
    script: impl FnOnce(&mut Node, &Mutex<Shots>),
) -> Option<Album> {
    let dir = disk::scratch();
    let image = dir.path().join("disk");
    disk::make(test, kind, &image)?;
    let state_dir = node.state_dir();
    let mounted = match Mounted::mount(kind, &image, &state_dir) {
        Ok(mounted) => mounted,
        Err(error) => {
            println!("SKIP {test}: {error}");
            return None;
        }
    };
    let shots = Arc::new(Mutex::new(Shots::new(mounted, state_dir.clone(), dir.path().to_owned(), meddle)));
    let asked = Arc::clone(&shots);
    arm(node, move |point| asked.lock().unwrap().at(point));
    let taken = catch_unwind(AssertUnwindSafe(|| {
        script(node, &shots);
        assert!(node.eci(&["gc"]).status.success());
        node.stop();
    }));
    // Also where something went wrong, the thread that answers the agent is not to keep the disk mounted.
    let mut shots = shots.lock().unwrap_or_else(PoisonError::into_inner);
    let mounted = shots.end();
    taken.unwrap_or_else(|panic| resume_unwind(panic));
    mounted.unwrap().unmount();
    let (copies, meddled) = (shots.copies, shots.meddled);
    let instants = std::mem::take(&mut shots.instants);
    Some(Album { state_dir, dir, kind, instants, copies, meddled })
}

/// Goes through `stages`.
fn go_through(stages: &[Stage], node: &mut Node, shots: &Mutex<Shots>) {
    for (n, stage) in stages.iter().enumerate() {
        shots.lock().unwrap().stage = n;
        node.desire(&stage.desired);
        if n == 0 {
            node.start();
        }
        all(node, stage.ends.clone());
    }
}

/// Nothing is left out.
fn all_is_made() -> Meddle {
    Box::new(|_, _| Answer::Go)
}

impl Album {
    /// Looks at some of the copies, two at a time; with `origin`, which has the images, the agent is started on each.
    /// What is wrong, and on which copy.
    fn violations(&self, story: &Story, copies: &[usize], origin: Option<&str>) -> Vec<(usize, String)> {
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Handle::current();
        let look = || {
            disk::mount_apart("").unwrap();
            let _entered = runtime.enter();
            let mut restarter = origin.map(|origin| Restarter::new(story, origin, &self.state_dir));
            while let Some(n) = copies.get(next.fetch_add(1, Relaxed)) {
                let wrong = catch_unwind(AssertUnwindSafe(|| self.look(*n, story, restarter.as_mut())));
                let wrong = wrong.unwrap_or_else(|panic| {
                    println!("at {}", self.moments(*n).last().unwrap().what);
                    resume_unwind(panic)
                });
                found.lock().unwrap().extend(wrong.into_iter().map(|wrong| (*n, wrong)));
            }
        };
        std::thread::scope(|scope| {
            let looking = [scope.spawn(look), scope.spawn(look)];
            for looking in looking {
                looking.join().unwrap_or_else(|panic| resume_unwind(panic));
            }
        });
        found.into_inner().unwrap()
    }

    fn moments(&self, copy: usize) -> impl Iterator<Item = &Instant> {
        self.instants.iter().filter(move |instant| instant.copy == copy)
    }

    fn look(&self, n: usize, story: &Story, restarter: Option<&mut Restarter<'_>>) -> Vec<String> {
        let last = self.moments(n).last().unwrap();
        let label = |what: &str, wrong: &str| format!("{}, {what}: {wrong}", self.kind.name);
        let mounted = match Mounted::mount(self.kind, &copy(self.dir.path(), n), &self.state_dir) {
            Ok(mounted) => mounted,
            Err(error) => return vec![label(&last.what, &error)],
        };
        let tree = tree::read(&self.state_dir);
        let mut found: Vec<String> =
            Disk::new(&self.state_dir, story).violations(&tree).iter().map(|wrong| label(&last.what, wrong)).collect();
        for moment in self.moments(n) {
            found.extend(moment.expected.violations(&tree).map(|wrong| label(&moment.what, &wrong)));
        }
        if let Some(restarter) = restarter {
            found.extend(restarter.violations(last.stage).iter().map(|wrong| label(&last.what, wrong)));
        }
        mounted.unmount();
        found
    }
}

fn holds_on(test: &'static str, kind: Kind) {
    apart(test, || {
        let origin = Registry::http();
        let story = Story::new(&origin);
        let mut node = node();
        let Some(album) =
            take(test, kind, &mut node, all_is_made(), |node, shots| go_through(&story.stages, node, shots))
        else {
            return;
        };
        let step = if is_full() { 1 } else { album.copies.div_ceil(SAMPLE) };
        let copies: Vec<_> = (0..album.copies).step_by(step).collect();
        let host = origin.host();
        // From now on there are only the mirrors, each of which one agent asks.
        tokio::runtime::Handle::current().block_on(origin.stop());
        let found = album.violations(&story, &copies, Some(&host));
        let (moments, all) = (album.instants.len(), album.copies);
        println!(
            "{}: {moments} moments, {all} copies, {} looked at, {} violations",
            kind.name,
            copies.len(),
            found.len()
        );
        assert!(found.is_empty(), "{}", lines(&found));
        assert!(moments >= LEAST, "so few moments show little: {moments}");
    });
}

#[test]
fn a_power_cut_is_survived_on_ext4() {
    holds_on("a_power_cut_is_survived_on_ext4", EXT4);
}

#[test]
fn a_power_cut_is_survived_on_ext4_as_it_comes() {
    holds_on("a_power_cut_is_survived_on_ext4_as_it_comes", EXT4_AS_IT_COMES);
}

#[test]
fn a_power_cut_is_survived_on_ext4_with_data_written_back() {
    holds_on("a_power_cut_is_survived_on_ext4_with_data_written_back", EXT4_WRITEBACK);
}

#[test]
fn a_power_cut_is_survived_on_xfs() {
    holds_on("a_power_cut_is_survived_on_xfs", XFS);
}

#[test]
fn a_power_cut_is_survived_on_btrfs() {
    holds_on("a_power_cut_is_survived_on_btrfs", BTRFS);
}

/// Leaves a kind of sync out. What is wrong then, and on how many of all copies, as a text; none where there is no such file
/// system here.
fn without(test: &str, kind: Kind, sync: Sync) -> Option<(Vec<(usize, String)>, String)> {
    let (origin, mut node) = (Registry::http(), node());
    let story = Story::new(&origin);
    let skip: Meddle = Box::new(move |point, dir| if (sync.is)(point, dir) { Answer::Skip } else { Answer::Go });
    let stages = &story.stages[..sync.stages];
    let album = take(test, kind, &mut node, skip, |node, shots| go_through(stages, node, shots))?;
    assert!(album.meddled > 0, "nothing was left out: {}", sync.name);
    let found = album.violations(&story, &(0..album.copies).collect::<Vec<_>>(), None);
    let wrong: BTreeSet<_> = found.iter().map(|(copy, _)| copy).collect();
    let cell = format!("{} of {}", wrong.len(), album.copies);
    Some((found, cell))
}

fn lines(violations: &[(usize, String)]) -> String {
    violations.iter().map(|(_, wrong)| wrong.as_str()).collect::<Vec<_>>().join("\n")
}

fn is_missed(test: &'static str, kind: Kind, sync: Sync) {
    apart(test, || {
        let Some((found, wrong)) = without(test, kind, sync) else { return };
        println!("{}, without the sync of {}: {wrong} copies are wrong", kind.name, sync.name);
        assert!(!found.is_empty());
    });
}

#[test]
fn a_sync_of_a_blob_that_is_left_out_is_missed() {
    is_missed("a_sync_of_a_blob_that_is_left_out_is_missed", EXT4, left_out::BLOB);
}

#[test]
fn a_sync_of_the_links_that_is_left_out_is_missed() {
    is_missed("a_sync_of_the_links_that_is_left_out_is_missed", XFS, left_out::CURRENT);
}

#[test]
fn each_kind_of_sync_is_missed() {
    const TEST: &str = "each_kind_of_sync_is_missed";
    if !is_full() {
        println!("SKIP {TEST}: it takes minutes, and ECI_TEST_FULL is not set");
        return;
    }
    apart(TEST, || {
        for sync in left_out::ALL {
            let mut row = format!("| {} |", sync.name);
            for kind in [EXT4, EXT4_AS_IT_COMES, EXT4_WRITEBACK, XFS, BTRFS] {
                let Some((found, wrong)) = without(TEST, kind, sync) else { continue };
                row += &format!(" {wrong} |");
                if let Some((_, first)) = found.first() {
                    println!("{first}");
                }
                let is_made_up_for = sync.made_up_for.contains(&kind.name);
                assert_eq!(found.is_empty(), is_made_up_for, "{}, without the sync of {}", kind.name, sync.name);
            }
            println!("{row}");
        }
    });
}
