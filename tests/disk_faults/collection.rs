//! Of a collection: whatever it is interrupted by, and wherever, what is left is only what the next one takes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{is_full, named, wait_until};
use crate::common::agent::{Node, files_below};
use crate::common::archive::{gzip, tar};
use crate::common::fault_points::{Answer, Point, arm};
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};
use crate::legacy::{GZIP_LAYER, annotations, layer, publish};

const MIB: usize = 1 << 20;

/// What happens to the process at one of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    None,
    Kill,
    Fail(Errno),
}

/// Strikes a process at the step with a number.
#[derive(Clone, Default)]
struct Striker {
    at: Arc<AtomicUsize>,
    blow: Arc<Mutex<Option<Blow>>>,
    pid: Arc<AtomicI32>,
    /// How many steps there were, and the one that was struck.
    count: Arc<AtomicUsize>,
    struck: Arc<Mutex<Option<Point>>>,
}

impl Striker {
    /// Of `node`, at steps that `counts` counts.
    fn over(node: &mut Node, counts: impl Fn(&Point) -> bool + Send + 'static) -> Self {
        let striker = Self::default();
        let (own, state) = (striker.clone(), node.state_dir());
        arm(node, move |point| {
            if point.is_made || !counts(point) || own.count.fetch_add(1, SeqCst) != own.at.load(SeqCst) {
                return Answer::Go;
            }
            let blow = own.blow.lock().unwrap().unwrap_or(Blow::None);
            if blow != Blow::None {
                let path = state.join(&point.path).components().collect();
                *own.struck.lock().unwrap() = Some(Point { path, ..point.clone() });
            }
            match blow {
                Blow::None => Answer::Go,
                Blow::Fail(errno) => Answer::Fail(errno),
                Blow::Kill => {
                    while own.pid.load(SeqCst) == 0 {
                        std::thread::yield_now();
                    }
                    kill(Pid::from_raw(own.pid.load(SeqCst)), Signal::SIGKILL).unwrap();
                    Answer::Go
                }
            }
        });
        striker
    }

    fn set(&self, at: usize, blow: Blow) {
        self.at.store(at, SeqCst);
        self.count.store(0, SeqCst);
        self.pid.store(0, SeqCst);
        *self.blow.lock().unwrap() = Some(blow);
        *self.struck.lock().unwrap() = None;
    }

    fn of(&self, pid: u32) {
        self.pid.store(i32::try_from(pid).unwrap(), SeqCst);
    }

    /// What the error says of the step that was struck.
    fn struck(&self) -> Option<String> {
        let struck = self.struck.lock().unwrap();
        struck.as_ref().map(|point| format!("cannot {} {}", point.operation, point.path.display()))
    }
}

/// A state directory with much to collect, and with much that is to stay.
struct Scene {
    _registry: Registry,
    node: Node,
    saved: PathBuf,
    /// What an uninterrupted collection leaves.
    left: BTreeMap<PathBuf, Vec<u8>>,
}

impl Scene {
    async fn new() -> Self {
        let registry = Registry::http();
        let retry = "[retry]\ninitial = \"1h\"\nmax = \"1h\"\n";
        let mut node = Node::with_config(&format!("[cache]\nkeep = 9\nreserve = \"0B\"\n{retry}"));
        let root = annotations("disk-root", "application/vnd.lfedge.disk.layer.v1+raw", "root.raw");
        for (n, tag) in ["v1", "v2", "v3"].into_iter().enumerate() {
            Image::new(tag).publish(&registry, "edge/nginx", tag);
            let packed = gzip(&tar(&[("root.raw", format!("packed {tag}").as_bytes())]));
            let packed = publish(&registry, tag, b"{}", &[layer(&registry, GZIP_LAYER, &packed, &root)]);
            node.desire(&desired(&registry.reference("edge/nginx", tag), &packed));
            if n == 0 {
                node.start();
            }
            let left = std::cell::Cell::new(2);
            node.until("activated", |event| {
                left.set(left.get() - usize::from(event["event"] == "activated"));
                left.get() == 0
            });
        }
        // One that is being pulled: some of it is in the cache, some on its way.
        let next = Image::new("next").with_root_of(2 * MIB);
        next.publish(&registry, "edge/nginx", "next");
        let on_root = On::blobs().get().reference(&digest(&next.root));
        registry.inject(on_root.clone().once(), Fault::DropAfter(MIB as u64));
        registry.inject(on_root.skip(1), Fault::status(503));
        node.desire(&desired(&registry.reference("edge/nginx", "next"), &registry.reference("edge/legacy", "v3")));
        node.until_failed("registry-error");
        let initrd = digest(&next.initrd).replace("sha256:", "cache/blobs/sha256/");
        wait_until("there", &node, || node.state_dir().join(&initrd).exists());
        node.stop();
        let state = node.state_dir();
        let make = |path: &str| fs::create_dir_all(state.join(path)).unwrap();
        // Of a workload that is gone; of a collection that was interrupted; of nobody.
        make("generations/gone");
        copy(&state.join("generations/packed/1"), &state.join("generations/gone/1"));
        make("generations/default/.77.retired/dir");
        fs::write(state.join("cache/blobs/sha256").join(&digest(b"stray")[7..]), "stray").unwrap();
        fs::write(state.join("cache/unpacked").join(format!("{}.json", &digest(b"stray")[7..])), "{}").unwrap();
        node.configure(&format!("[cache]\nkeep = 1\nreserve = \"0B\"\n{retry}"));
        let saved = node.path("saved");
        copy(&state, &saved);
        let mut scene = Self { _registry: registry, node, saved, left: BTreeMap::new() };
        assert!(scene.node.eci(&["gc"]).status.success());
        scene.left = scene.tree();
        let numbers = |workload: &str| super::names(&scene.node.state_dir().join("generations").join(workload));
        assert_eq!([numbers("default").len(), numbers("packed").len(), numbers("gone").len()], [2, 2, 0]);
        scene
    }

    fn reset(&self) {
        fs::remove_dir_all(self.node.state_dir()).unwrap();
        copy(&self.saved, &self.node.state_dir());
    }

    /// All files, but for what is the running agent's own, and what a download knows of itself.
    fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.node.state_dir();
        let mut tree = BTreeMap::new();
        for path in files_below(&state) {
            let file = state.join(&path);
            let bytes = match fs::read_link(&file) {
                Ok(target) => target.into_os_string().into_encoded_bytes(),
                Err(_) if path.starts_with("partial") || path == Path::new("lock") => Vec::new(),
                Err(_) => fs::read(&file).unwrap_or_default(),
            };
            if path.extension().is_none_or(|ending| ending != "written" && ending != "synced") {
                tree.insert(path, bytes);
            }
        }
        tree
    }

    /// Nothing is lost of what a collection would leave.
    fn is_safe(&self, what: &str) {
        let tree = self.tree();
        // That one a collection makes.
        let made = Path::new("generations/.highest-gone");
        for (path, bytes) in self.left.iter().filter(|(path, _)| *path != made) {
            // These are replaced, at the latest by the next collection.
            let is_changed = path == Path::new("cache/index.json") || path == Path::new("state.json");
            assert!(tree.get(path).is_some_and(|found| is_changed || found == bytes), "{what}: {}", path.display());
        }
    }

    /// Another collection leaves what one that was not interrupted does.
    fn is_collected(&self, what: &str) {
        assert!(self.node.eci(&["gc"]).status.success(), "{what}");
        let differs = |tree: &BTreeMap<PathBuf, Vec<u8>>| {
            let all = tree.keys().chain(self.left.keys());
            all.filter(|path| tree.get(*path) != self.left.get(*path)).cloned().collect::<Vec<_>>()
        };
        assert_eq!(differs(&self.tree()), Vec::<PathBuf>::new(), "{what}: {}", self.node.log());
    }
}

fn desired(default: &str, packed: &str) -> String {
    format!("[workload.default]\nimage = \"{default}\"\n[workload.packed]\nimage = \"{packed}\"\n")
}

/// Copies a directory with its links, hard ones included.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args(["-a", "--"]).args([from, to]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_by_hand_may_be_interrupted_anywhere() {
    let mut scene = Scene::new().await;
    let striker = Striker::over(&mut scene.node, |_| true);
    let (mut killed, mut failed) = (0, 0);
    for at in 0.. {
        for blow in [Blow::Kill, Blow::Fail(Errno::EIO)] {
            scene.reset();
            striker.set(at, blow);
            let mut gc = scene.node.command(&["gc"]);
            gc.envs(scene.node.environment.iter().map(|(name, value)| (name, value)));
            let gc = gc.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            striker.of(gc.id());
            let output = gc.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let Some(struck) = striker.struck() else {
                assert!(output.status.success(), "{said}");
                println!("{killed} killed, {failed} failed");
                return;
            };
            if blow == Blow::Kill {
                killed += 1;
                assert_eq!(output.status.signal(), Some(Signal::SIGKILL as i32), "{struck}");
            } else {
                failed += 1;
                assert_eq!(output.status.code(), Some(73), "{struck}: {said}");
                assert!(said.contains(&struck) && said.contains(named(Answer::Fail(Errno::EIO)).1), "{struck}: {said}");
            }
            scene.is_safe(&struck);
            scene.is_collected(&struck);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_collection_may_be_interrupted_anywhere() {
    let mut scene = Scene::new().await;
    let striker = Striker::over(&mut scene.node, |point| {
        let is_index = point.path.ends_with("cache/index.json") || point.path.ends_with("cache/.index.json.new");
        let retires = point.path.extension().is_some_and(|ending| ending == "retired");
        let is_removal = point.operation == "remove" && !point.path.starts_with("partial");
        is_removal || retires || is_index
    });
    // How many there are: until a collection ended that found nothing any more.
    scene.reset();
    striker.set(usize::MAX, Blow::None);
    scene.node.start();
    scene.node.until_failed("registry-error");
    scene.is_collected("undisturbed");
    scene.node.stop();
    let (step, steps) = (if is_full() { 1 } else { 4 }, striker.count.load(SeqCst));
    let (mut killed, mut failed) = (0, 0);
    for at in (0..steps).step_by(step) {
        for blow in [Blow::Kill, Blow::Fail(Errno::EIO)] {
            scene.reset();
            striker.set(at, blow);
            let (mut agent, _notify) = scene.node.spawn(&[]);
            striker.of(agent.id());
            wait_until("struck", &scene.node, || striker.struck().is_some());
            let struck = striker.struck().unwrap();
            if blow == Blow::Kill {
                killed += 1;
                assert_eq!(agent.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
                scene.is_safe(&struck);
                let _ = fs::remove_file(scene.node.socket());
                scene.node.start();
                scene.node.until_failed("registry-error");
                scene.is_collected(&struck);
                scene.node.stop();
            } else {
                failed += 1;
                wait_until("said", &scene.node, || scene.node.log().contains(&struck));
                scene.is_safe(&struck);
                if agent.try_wait().unwrap().is_none() {
                    wait_until("open", &scene.node, || {
                        scene.node.socket().exists() || agent.try_wait().unwrap().is_some()
                    });
                }
                let _ = kill(Pid::from_raw(i32::try_from(agent.id()).unwrap()), Signal::SIGTERM);
                agent.wait().unwrap();
                scene.is_collected(&struck);
            }
        }
    }
    println!("{killed} killed, {failed} failed");
}
