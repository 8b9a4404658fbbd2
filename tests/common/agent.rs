//! The agent as a process, as systemd would run it: told ready by a notification, stopped by a signal.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::registry::digest;
use super::schema;

/// Far longer than anything here takes; only a failure waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub const ECI: &str = env!("CARGO_BIN_EXE_eci");

/// Id of the group `eci-vm` of nodes that have one.
pub const GUESTS: u32 = 4242;

/// A node: a directory with the agent's files, whether the agent runs or not.
pub struct Node {
    dir: tempfile::TempDir,
    agent: Option<Running>,
    /// The program that is run, and the uid and gid that the agent runs under, where they are not ours.
    program: PathBuf,
    /// A command that runs the command that follows it; nothing where the program is run by itself.
    wrapper: Vec<String>,
    pub uid: Option<u32>,
    /// True if the wrapper runs the program under another uid already.
    is_wrapper_unprivileged: bool,
    /// What the agent's standard error is appended to.
    pub log: PathBuf,
    /// What the agent finds in its environment besides.
    pub environment: Vec<(&'static str, PathBuf)>,
}

struct Running {
    process: Child,
    events: Receiver<Value>,
    follower: Child,
}

impl Node {
    /// A node whose agent is not started yet, with settings that suit tests: quick retries, no polls.
    pub fn new() -> Self {
        Self::with_config("")
    }

    /// The same with more lines in `agent.toml`.
    pub fn with_config(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let (program, wrapper, environment) = (ECI.into(), Vec::new(), Vec::new());
        let (uid, is_wrapper_unprivileged) = (None, false);
        let node = Self { dir, agent: None, program, wrapper, uid, is_wrapper_unprivileged, log, environment };
        fs::create_dir(node.path("etc")).unwrap();
        node.configure(more);
        node
    }

    /// The agent is to run as it does under systemd: as a user without privileges, who owns its directories. None, and a
    /// line that says so, where that takes more than this process may.
    pub fn unprivileged(&mut self, test: &str) -> Option<()> {
        const NOBODY: u32 = 65534;
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP {test}: only root can run a process as somebody else");
            return None;
        }
        self.program = self.path("eci");
        copy_program(&self.program);
        fs::create_dir_all(self.state_dir()).unwrap();
        let owner = format!("{NOBODY}:{NOBODY}");
        assert!(Command::new("chown").args(["-R", &owner]).arg(self.dir.path()).status().unwrap().success());
        // Root obeys no configuration that somebody else can write or replace. The agent's socket goes into the directory.
        for path in [self.path("etc"), self.path("etc/agent.toml"), self.dir.path().to_owned()] {
            std::os::unix::fs::chown(path, Some(0), Some(0)).unwrap();
        }
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        self.uid = Some(NOBODY);
        Some(())
    }

    /// The agent is to be a copy of the program, at the path that this returns.
    pub fn copied(&mut self) -> PathBuf {
        self.program = self.path("eci");
        copy_program(&self.program);
        self.program.clone()
    }

    /// The program is to see what is in the file that this returns in place of `/etc/hosts`, and only it is. None, and a
    /// line that says so, where this process may not arrange that.
    pub fn with_hosts(&mut self, test: &str) -> Option<PathBuf> {
        let unshared = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
        if !unshared.is_ok_and(|status| status.success()) {
            println!("SKIP {test}: only root can have a mount namespace");
            return None;
        }
        let hosts = self.path("hosts");
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        self.wrapper = ["unshare", "--mount", "sh", "-c", script, hosts.to_str().unwrap()].map(str::to_owned).to_vec();
        Some(hosts)
    }

    /// The agent is to run as [`Self::unprivileged`] says, with a group `eci-vm` that only this node's processes have,
    /// and that the agent's user may be a member of. None, and a line that says so, where this process may not arrange
    /// that.
    pub fn with_guest_group(&mut self, test: &str, is_member: bool) -> Option<()> {
        self.with_hosts(test)?;
        self.unprivileged(test)?;
        let groups = fs::read_to_string("/etc/group").unwrap();
        let others: Vec<_> = groups.lines().filter(|line| !line.starts_with("eci-vm:")).collect();
        fs::write(self.path("group"), format!("{}\neci-vm:x:{GUESTS}:\n", others.join("\n"))).unwrap();
        let uid = self.uid?;
        let groups = if is_member { format!("--groups={GUESTS}") } else { "--clear-groups".to_owned() };
        self.wrapper = self.guest_group_wrapper(&[format!("--reuid={uid}"), format!("--regid={uid}"), groups]);
        self.is_wrapper_unprivileged = true;
        Some(())
    }

    /// A command of the program as another user of a node that has the group `eci-vm`.
    pub fn as_user(&self, uid: u32, gid: u32, arguments: &[&str]) -> Command {
        let ids = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
        let words = self.guest_group_wrapper(&ids);
        let mut command = self.pointed_here(Command::new(&words[0]));
        command.args(&words[1..]).arg(&self.program).args(arguments).current_dir("/");
        command
    }

    fn guest_group_wrapper(&self, ids: &[String]) -> Vec<String> {
        let script = "mount --bind \"$0\" /etc/group && exec setpriv \"$@\"";
        let words = ["unshare", "--mount", "sh", "-c", script, self.path("group").to_str().unwrap()].map(str::to_owned);
        words.into_iter().chain(ids.iter().cloned()).collect()
    }

    /// Writes `agent.toml`: the defaults of tests, and `more`. What a file no longer names is retired at once, if
    /// `more` has no `[desired]`.
    pub fn configure(&self, more: &str) {
        let retry = if more.contains("[retry]") { "" } else { "[retry]\ninitial = \"20ms\"\nmax = \"100ms\"\n" };
        // What a node never uses is more than the small file systems of some tests have.
        let cache = if more.contains("[cache]") { "" } else { "[cache]\nreserve = \"0B\"\n" };
        let desired = if more.contains("[desired]") { "" } else { "[desired]\nretire = \"0s\"\n" };
        fs::write(self.path("etc/agent.toml"), format!("{more}\n{desired}{retry}{cache}")).unwrap();
    }

    /// Starts the agent and waits until it says that it is ready.
    pub fn start(&mut self) {
        let mut process = self.spawn(&[]);
        let ready = process.1;
        ready.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut message = [0; 4096];
        loop {
            match ready.recv(&mut message) {
                Ok(count) if String::from_utf8_lossy(&message[..count]).contains("READY=1") => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let ended = process.0.try_wait();
                    let _ = process.0.kill();
                    panic!("not ready: {error}; {ended:?}; {}", self.log());
                }
            }
        }
        // All events from the first on: an id of another run has seen nothing of this one.
        let mut follow = self.command(&["events", "--json", "--since", "0-0"]);
        // That the agent is killed under it is what many tests are about.
        let mut follower = follow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        self.agent = Some(Running { process: process.0, events, follower });
    }

    /// Starts the process only; the socket is where its notifications arrive.
    pub fn spawn(&self, environment: &[(&str, &str)]) -> (Child, UnixDatagram) {
        let desired = self.desired();
        let mut command = self.command(&["agent", "--desired", desired.to_str().unwrap()]);
        let more = self.environment.iter().map(|(name, value)| (name, value));
        command.envs(more).envs(environment.iter().copied()).stdin(Stdio::null());
        self.spawn_notifying(command)
    }

    /// The same by a shell that runs `set_up` and then becomes the agent.
    pub fn spawn_after(&self, set_up: &str, stdin: Stdio) -> (Child, UnixDatagram) {
        let mut command = self.pointed_here(Command::new("sh"));
        command.args(["-c", &format!("{set_up}\nexec \"$0\" \"$@\""), ECI, "agent", "--desired"]);
        command.arg(self.desired()).stdin(stdin);
        self.spawn_notifying(command)
    }

    fn spawn_notifying(&self, mut command: Command) -> (Child, UnixDatagram) {
        let notify = self.path("notify");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).unwrap();
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        if let Some(uid) = self.uid {
            fs::set_permissions(&notify, fs::Permissions::from_mode(0o666)).unwrap();
            command.current_dir("/");
            if !self.is_wrapper_unprivileged {
                command.uid(uid).gid(uid);
            }
        }
        let child = command.env("NOTIFY_SOCKET", &notify).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        (child, socket)
    }

    /// A command of the program, pointed at this node.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let program = self.program.to_str().unwrap().to_owned();
        let words: Vec<_> = self.wrapper.iter().chain([&program]).collect();
        let mut command = self.pointed_here(Command::new(words[0]));
        command.args(&words[1..]).args(arguments);
        command
    }

    fn pointed_here(&self, mut command: Command) -> Command {
        command
            .env("ECI_CONFIG", self.path("etc/agent.toml"))
            .env("ECI_STATE_DIR", self.state_dir())
            .env("ECI_SOCKET", self.socket());
        command
    }

    /// Runs a command of the program to its end.
    pub fn eci(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Leaves the first `count` bytes of a blob as a download that a power cut ended.
    pub fn leave_partial(&self, blob: &[u8], count: usize) -> PathBuf {
        let path = self.partial(blob);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &blob[..count]).unwrap();
        std::fs::write(path.with_extension("synced"), format!("[[0,{count}]]")).unwrap();
        path
    }

    /// Where the download of a blob is while it is under way.
    pub fn partial(&self, blob: &[u8]) -> PathBuf {
        self.state_dir().join("partial").join(digest(blob).replace("sha256:", ""))
    }

    /// How much of the download of a blob the agent has written, in bytes.
    pub fn has_written(&self, blob: &[u8]) -> u64 {
        let page = std::fs::read(self.partial(blob).with_extension("written")).unwrap_or_default();
        let page: Value = serde_json::from_slice(&page).unwrap_or_default();
        let lengths = page["written"].as_array().into_iter().flatten();
        lengths.map(|range| range[1].as_u64().unwrap() - range[0].as_u64().unwrap()).sum()
    }

    pub fn desired(&self) -> PathBuf {
        self.path("etc/desired.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.path("agent.sock")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.agent.as_ref().unwrap().process.id()
    }

    /// Puts a desired state into place by rename.
    pub fn desire(&self, text: &str) {
        let new = self.path("etc/new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.desired()).unwrap();
    }

    /// Desires one image.
    pub fn desire_image(&self, reference: &str) {
        self.desire(&format!("image = \"{reference}\"\n"));
    }

    /// Waits for an event that `wanted` accepts, passing over others. Each is what the API's document says of events.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let events = &self.agent.as_ref().unwrap().events;
        let mut seen = Vec::new();
        loop {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    schema::check_event(&event);
                    if wanted(&event) {
                        return event;
                    }
                    seen.push(format!("{} {} {}", event["event"], event["phase"], event["message"]));
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("never {what}; events:\n{}\nlog:\n{}", seen.join("\n"), self.log())
                }
            }
        }
    }

    /// Waits until a workload boots a generation of `reference`.
    pub fn until_activated(&self, reference: &str) -> Value {
        self.until(&format!("activated {reference}"), |event| {
            event["event"] == "activated" && event["message"].as_str().unwrap().contains(reference)
        })
    }

    /// Waits until a workload is in `phase`.
    pub fn until_phase(&self, phase: &str) -> Value {
        self.until(phase, |event| event["event"] == "phase" && event["phase"] == phase)
    }

    /// Waits for a failure of `kind`.
    pub fn until_failed(&self, kind: &str) -> Value {
        self.until(&format!("failed with {kind}"), |event| event["event"] == "failed" && event["kind"] == kind)
    }

    /// Waits until the desired-state file is refused for `kind`.
    pub fn until_rejected(&self, kind: &str) -> Value {
        self.until(&format!("rejected as {kind}"), |event| {
            event["event"] == "desired-rejected" && event["kind"] == kind
        })
    }

    pub fn status(&self) -> Value {
        let output = self.eci(&["status", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A file of what the workload "default" boots.
    pub fn current(&self, name: &str) -> Vec<u8> {
        fs::read(self.state_dir().join("current").join(name)).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Ends the agent in the hardest way.
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Ends the agent as systemd does.
    pub fn stop(&mut self) -> ExitStatus {
        self.end(Signal::SIGTERM)
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.ended()
    }

    /// Waits for an end that the agent comes to by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let mut agent = self.agent.take().unwrap();
        let status = agent.process.wait().unwrap();
        let _ = agent.follower.kill();
        let _ = agent.follower.wait();
        status
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.agent.is_some() {
            let status = self.end(Signal::SIGKILL);
            if status.signal().is_none() && !std::thread::panicking() {
                panic!("the agent had ended by itself: {status}; {}", self.log());
            }
        }
    }
}

/// Copies the program under test, by another process: had this one the file open to write it, a child that is started at
/// the same time would hold it open, and nobody could run it.
pub fn copy_program(to: &Path) {
    assert!(Command::new("cp").arg(ECI).arg(to).status().unwrap().success());
}

/// Every file below `dir`, by its path from there.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}
