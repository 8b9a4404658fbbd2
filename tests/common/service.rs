//! The agent as a service manager has it: started by hand, heard through its notifications, ended by a signal.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::agent::{Node, PATIENCE};

/// An agent's process. It is killed where a test leaves it running.
pub struct Service {
    process: Child,
    told: Receiver<String>,
    statuses: Receiver<String>,
}

impl Service {
    /// Starts the process only.
    pub fn spawn(node: &Node, environment: &[(&str, &str)]) -> Self {
        Self::heard(node.spawn(environment))
    }

    /// The same by a shell, which runs `set_up` before it becomes the agent: what is set for a process before it
    /// starts, such as limits, descriptors and its own id.
    pub fn spawn_after(node: &Node, set_up: &str, stdin: std::process::Stdio) -> Self {
        Self::heard(node.spawn_after(set_up, stdin))
    }

    /// All that it tells is read at once, as systemd does it: a socket that is full would hold it up.
    fn heard((process, notify): (Child, UnixDatagram)) -> Self {
        let ((tell, told), (show, statuses)) = (channel(), channel());
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(count) = notify.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..count]).trim_end().to_owned();
                let sent = match text.strip_prefix("STATUS=") {
                    Some(status) => show.send(status.to_owned()),
                    None => tell.send(text),
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Self { process, told, statuses }
    }

    /// Starts it and waits until it is ready.
    pub fn start(node: &Node) -> Self {
        let service = Self::spawn(node, &[]);
        service.until_told("READY=1");
        service
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The next thing that it tells, but for the line that is shown of it.
    pub fn told(&self) -> String {
        self.told.recv_timeout(PATIENCE).expect("it tells something")
    }

    /// Waits until the line that is shown of it is this one.
    pub fn until_shown(&self, line: &str) {
        let mut last = String::new();
        while last != line {
            last = self.statuses.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("not {line:?} but {last:?}"));
        }
    }

    /// All that it tells up to `wanted`, that included.
    pub fn until_told(&self, wanted: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != wanted) {
            seen.push(self.told());
        }
        seen
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        eventually("ended", || self.process.try_wait().unwrap())
    }

    /// Ends it as systemd does.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Looks again and again until there is something: for what nobody announces.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never {what}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
