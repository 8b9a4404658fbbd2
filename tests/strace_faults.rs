//! The system calls of the built program fail as `strace` has them fail, fault points or not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::agent::Node;
use crate::common::fault_points::Answer;
use crate::common::image::Image;
use crate::common::registry::{On, Registry, digest};
use crate::disk_faults::update::Trial;
use crate::disk_faults::{is_full, named, wait_until};

/// Calls that only the disk hears of.
const CALLS: [&str; 9] = [
    "fsync,fdatasync",
    "pwrite64,copy_file_range",
    "rename,renameat,renameat2",
    "link,linkat",
    "symlink,symlinkat",
    "mkdir,mkdirat",
    "fallocate,ftruncate",
    "chmod,fchmod,fchmodat",
    "unlink,unlinkat,rmdir",
];
const ERRNOS: [Errno; 4] = [Errno::ENOSPC, Errno::EIO, Errno::EDQUOT, Errno::EROFS];

/// What fails.
#[derive(Debug)]
struct Fault {
    calls: &'static str,
    errno: Errno,
    /// The how manyeth call of a thread.
    at: u32,
    /// Only of this file.
    path: Option<PathBuf>,
}

impl Fault {
    /// The command that has it fail, and writes down what it did.
    fn strace(&self, log: &Path) -> Command {
        let Self { calls, errno, at, path } = self;
        let mut strace = Command::new("strace");
        strace.args(["-f", "-e", "signal=none", "-e", &format!("trace={calls}")]);
        strace.args(["-e", &format!("inject={calls}:error={errno:?}:when={at}"), "-o"]).arg(log);
        if let Some(path) = path {
            strace.arg("-P").arg(path);
        }
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        strace
    }
}

fn strikes(log: &Path) -> usize {
    fs::read_to_string(log).unwrap_or_default().matches("(INJECTED)").count()
}

/// Whether this process may trace others; if not, a line says so.
pub fn may_trace(test: &str) -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let may = nix::unistd::geteuid().is_root() && traced.is_ok_and(|status| status.success());
    if !may {
        println!("SKIP {test}: only root can trace a process, with strace");
    }
    may
}

/// A process that traces the agent, from now on until it is dropped.
struct Tracer(Child);

impl Tracer {
    fn of(node: &Node, fault: &Fault, log: &Path) -> Self {
        let _ = fs::remove_file(log);
        let pid = node.pid();
        let tracer = fault.strace(log).args(["-p", &pid.to_string()]).spawn().unwrap();
        let is_traced = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        };
        wait_until("traced", node, || fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().all(is_traced));
        Self(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It lets go of what it traces.
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_gets_over_system_calls_that_fail() {
    if !may_trace("an_update_gets_over_system_calls_that_fail") {
        return;
    }
    let mut trial = Trial::new();
    let log = trial.node.path("strace");
    let mut faults = Vec::new();
    for (n, calls) in CALLS.into_iter().enumerate() {
        for (m, errno) in ERRNOS.into_iter().enumerate() {
            let ats: &[u32] = if is_full() { &[1, 2, 3, 5, 8, 13] } else { &[1] };
            let is_due = is_full() || n % ERRNOS.len() == m;
            faults.extend(ats.iter().filter(|_| is_due).map(|at| Fault { calls, errno, at: *at, path: None }));
        }
    }
    let (mut count, mut failures) = (0, 0);
    for fault in faults {
        let tracer = Tracer::of(&trial.node, &fault, &log);
        let failed = trial.go();
        drop(tracer);
        count += strikes(&log);
        failures += failed.len();
        is_said(&fault, &failed, &log);
        // Downloads that nobody wants are looked for when an update ends, and only then.
        if fault.calls.starts_with("unlink") {
            trial.go();
        }
        trial.until_tidy();
    }
    for errno in ERRNOS {
        let path = Some(trial.node.partial(&trial.next().image.root));
        let fault = Fault { calls: "openat", errno, at: 1, path };
        let tracer = Tracer::of(&trial.node, &fault, &log);
        let failed = trial.go();
        drop(tracer);
        assert!(!failed.is_empty(), "{fault:?}");
        is_said(&fault, &failed, &log);
        trial.until_tidy();
    }
    println!("{count} calls failed, and {failures} tries");
    assert!(count > 0 && failures > 0);
}

/// A sector of the cache that nobody can read any more is no reason to wait.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_of_the_cache_is_fetched_again() {
    if !may_trace("what_cannot_be_read_of_the_cache_is_fetched_again") {
        return;
    }
    let (registry, mut node) = (Registry::http(), Node::new());
    let [one, two] = ["v1", "v2"].map(Image::new);
    one.publish(&registry, "edge/nginx", "v1");
    two.publish(&registry, "edge/nginx", "v2");
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_phase("active");
    node.stop();
    node.start();
    node.until_phase("active");
    registry.take_log();
    let kernel = node.state_dir().join("cache/blobs").join(digest(&two.kernel).replace(':', "/"));
    let log = node.path("strace");
    let tracer = Tracer::of(&node, &Fault { calls: "read", errno: Errno::EIO, at: 1, path: Some(kernel) }, &log);
    node.desire_image(&registry.reference("edge/nginx", "v2"));
    node.until_activated("nginx:v2");
    drop(tracer);
    // A first read fails in each thread.
    let strikes = strikes(&log);
    assert!(strikes > 0, "it was read");
    let fetches = registry.count(&On::blobs().get().reference(&digest(&two.kernel)));
    assert!((1..=strikes).contains(&fetches), "{fetches} fetches after {strikes} failed reads");
    assert_eq!(node.current("kernel"), two.kernel);
}

/// What failed is what was made to.
fn is_said(fault: &Fault, failed: &[serde_json::Value], log: &Path) {
    let (kind, advice) = named(Answer::Fail(fault.errno));
    for failed in failed {
        let is_it = failed["kind"] == kind && failed["message"].as_str().unwrap().contains(advice);
        assert!(is_it, "{fault:?}: {failed}; {}", fs::read_to_string(log).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_system_calls_fail_says_so() {
    if !may_trace("a_start_whose_system_calls_fail_says_so") {
        return;
    }
    let registry = Registry::http();
    let mut node = Node::new();
    Image::new("v1").publish(&registry, "edge/nginx", "v1");
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_activated("nginx:v1");
    node.stop();
    fs::remove_file(node.desired()).unwrap();
    let (lock, log) = (node.state_dir().join("lock"), node.path("strace"));
    let (mut refused, mut ready) = (0, 0);
    for (n, errno) in ERRNOS.into_iter().enumerate() {
        let fault = |calls, at, path| Fault { calls, errno, at, path };
        let mut faults = vec![fault("openat", 1, Some(lock.clone())), fault("fallocate,ftruncate", 1, None)];
        let ats = if is_full() { 1..10 } else { (n as u32 + 1)..(n as u32 + 2) };
        for at in ats {
            faults.extend(["fsync,fdatasync", "mkdir,mkdirat"].map(|calls| fault(calls, at, None)));
        }
        for fault in faults {
            let (said, code) = start(&node, &fault, &log);
            let (_, advice) = named(Answer::Fail(errno));
            if let Some(code) = code {
                refused += 1;
                assert!(code == 73 && said.contains("cannot "), "{fault:?}: {code}: {said}");
                assert!(said.contains(advice) || said.contains("cannot bind the socket"), "{fault:?}: {said}");
                assert!(said.contains(node.state_dir().parent().unwrap().to_str().unwrap()), "{fault:?}: {said}");
            } else {
                ready += 1;
                assert!(strikes(&log) == 0 || fault.at > 4, "{fault:?}: {said}");
            }
            node.start();
            assert_eq!(node.current("disk-root"), b"root disk of v1");
            node.kill();
        }
    }
    println!("{refused} starts refused, {ready} not");
    assert!(refused > 0);
}

/// What an agent said that starts under `fault`, and the code with which it ended; none where it became ready.
fn start(node: &Node, fault: &Fault, log: &Path) -> (String, Option<i32>) {
    let _ = fs::remove_file(log);
    let desired = node.desired();
    let agent = node.command(&["agent", "--desired", desired.to_str().unwrap()]);
    let errors = node.path("errors");
    // The tracer is the grandchild, so that the child is the agent.
    let mut command = fault.strace(log);
    command.arg("-D").arg(agent.get_program()).args(agent.get_args());
    command.envs(agent.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = command.stderr(fs::File::create(&errors).unwrap()).spawn().unwrap();
    let said = || fs::read_to_string(&errors).unwrap();
    let mut ended = None;
    wait_until("ready, or ended", node, || {
        ended = child.try_wait().unwrap();
        ended.is_some() || said().contains("ready state_dir")
    });
    let _ = child.kill();
    child.wait().unwrap();
    (said(), ended.and_then(|ended| ended.code()))
}
