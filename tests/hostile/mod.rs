//! Attacks: a named case for each finding and for each attack that held (README.md).
//!
//! README.md beside this file has the table. Each case states its bounds, which are there to catch a lack of bound: a
//! debug build on a busy machine keeps them with ease.

mod api;
mod challenges;
mod client_certificates;
mod config_files;
mod desired;
mod documents;
mod images;
mod locks;
mod pulls;
mod redirects;
mod registry_trust;
mod responses;
mod server;
mod state_dir;
mod text;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::server::Server;
use crate::common::agent::Node;
use crate::common::registry::{On, Registry};

/// Most that an attack may cost.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Memory of the agent (the peak of its resident set), or of a command (its data segment).
    memory: u64,
    /// Bytes of bodies that the registry sends.
    wire: u64,
    /// Requests that come to the registry.
    requests: usize,
    within: Duration,
}

/// A case under its bounds, from its first request to its last check.
struct Case {
    bounds: Bounds,
    started: Instant,
}

const fn kib(count: u64) -> u64 {
    count << 10
}

const fn mib(count: u64) -> u64 {
    count << 20
}

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Bounds {
    fn start(self) -> Case {
        Case { bounds: self, started: Instant::now() }
    }
}

impl Case {
    /// Checks the peak memory of a running agent.
    fn agent(&self, node: &Node) -> &Self {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak = peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
        assert!(peak <= self.bounds.memory, "the agent took {} MiB of memory", peak >> 20);
        self
    }

    /// Checks the bytes and requests of a registry.
    fn registry(&self, registry: &Registry) -> &Self {
        let (bytes, requests) = (registry.body_bytes(&On::any()), registry.count(&On::any()));
        assert!(bytes <= self.bounds.wire, "{bytes} bytes were sent");
        assert!(requests <= self.bounds.requests, "{requests} requests came");
        self
    }

    /// Checks the bytes and requests of a server.
    fn server(&self, server: &Server) -> &Self {
        let (bytes, requests) = (server.sent(), server.heads().len());
        assert!(bytes <= self.bounds.wire, "{bytes} bytes were sent");
        assert!(requests <= self.bounds.requests, "{requests} requests came");
        self
    }

    /// Runs a command with no more memory than the bound, and kills it after the time.
    fn run(&self, command: &Command) -> Output {
        let limit = format!("ulimit -d {} && exec \"$0\" \"$@\"", self.bounds.memory >> 10);
        let mut limited = Command::new("sh");
        limited.args([OsString::from("-c"), limit.into(), command.get_program().into()]).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            limited.current_dir(dir);
        }
        let mut child = limited.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (ended, wait) = channel::<()>();
        let left = self.bounds.within.saturating_sub(self.started.elapsed());
        let watchdog = std::thread::spawn(move || {
            if wait.recv_timeout(left).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            err.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let mut stdout = Vec::new();
        out.read_to_end(&mut stdout).unwrap();
        let stderr = stderr.join().unwrap();
        let status = child.wait().unwrap();
        drop(ended);
        watchdog.join().unwrap();
        Output { status, stdout, stderr }
    }

    /// Runs a command that has to fail with `code`; the text on its standard error.
    fn fails(&self, command: &Command, code: i32) -> String {
        let output = self.run(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{command:?}: {:?} {said}", output.status);
        said
    }

    /// Runs a command that has to succeed; the text on its standard output.
    fn must(&self, command: &Command) -> String {
        let output = self.run(command);
        assert!(
            output.status.success(),
            "{command:?}: {:?} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        if !std::thread::panicking() {
            assert!(took <= self.bounds.within, "the case took {took:?}");
        }
    }
}

/// Text of a command's standard error.
fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn limits_of_commands_are_in_force() {
    let mut greedy = Command::new("sh");
    greedy.args(["-c", "text=$(head -c 40000000 /dev/zero | tr '\\0' a); echo ${#text}"]);
    let bounds = Bounds { memory: mib(16), wire: 0, requests: 0, within: secs(60) };
    assert!(!bounds.start().run(&greedy).status.success(), "40 MB are more than 16 MiB");
    assert_eq!(Bounds { memory: mib(256), ..bounds }.start().must(&greedy), "40000000\n");
    let mut endless = Command::new("sleep");
    endless.arg("1000");
    let case = Bounds { within: secs(1), ..bounds }.start();
    assert!(!case.run(&endless).status.success(), "the time is over");
    std::mem::forget(case);
}

/// Findings and attacks of the review that have a case each.
const ROWS: [&str; 44] = [
    "H1", "H2", "H3", "H4", "M1", "M2", "M3", "M4", "M5", "M6", "M7", "L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8",
    "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20",
    "21", "22", "23", "24", "25",
];

#[test]
fn the_table_names_each_row_and_each_case() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let table = std::fs::read_to_string(dir.join("README.md")).unwrap();
    let mut cases = BTreeSet::new();
    for file in std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
        let module = file.file_stem().unwrap().to_str().unwrap().to_owned();
        if file.extension().is_some_and(|ending| ending == "rs") && module != "mod" {
            let text = std::fs::read_to_string(&file).unwrap();
            for test in text.split("#[test]\n").chain(text.split("#[tokio::test(flavor = \"multi_thread\")]\n")).skip(1)
            {
                if let Some(name) = test.trim_start_matches("async ").strip_prefix("fn ") {
                    cases.insert(format!("{module}::{}", name.split('(').next().unwrap()));
                }
            }
        }
    }
    let quoted = table.split('`').skip(1).step_by(2).filter(|text| text.contains("::"));
    let named: BTreeSet<_> = quoted.map(str::to_owned).collect();
    assert_eq!(named, cases);
    assert!(cases.len() >= 45, "{} cases", cases.len());
    for row in ROWS {
        let line = table.lines().find(|line| line.starts_with(&format!("| {row} |")));
        assert!(line.is_some_and(|line| line.contains("::")), "{row} has no case");
    }
}
