//! A command on a terminal: its stdin and stderr are a pseudo-terminal, and what a person types is written to that.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};

use nix::pty::{Winsize, openpty};

/// A command that runs on a terminal; its stdout is a pipe.
pub struct OnTerminal {
    child: Child,
    terminal: File,
    /// What it wrote on the terminal, the echo of what was typed included.
    pub seen: String,
}

impl OnTerminal {
    pub fn start(command: Command) -> Self {
        Self::start_on(command, None)
    }

    /// The same on a terminal of this size.
    pub fn start_sized(command: Command, size: &Winsize) -> Self {
        Self::start_on(command, Some(size))
    }

    fn start_on(mut command: Command, size: Option<&Winsize>) -> Self {
        let pty = openpty(size, None).unwrap();
        command.stdin(pty.slave.try_clone().unwrap()).stderr(pty.slave).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        // The command alone has the other end from now on: when it ends, reading does.
        drop(command);
        Self { child, terminal: pty.master.into(), seen: String::new() }
    }

    /// Waits until the command has written `text`.
    pub fn until(&mut self, text: &str) {
        let mut bytes = [0; 4096];
        while !self.seen.contains(text) {
            let count = self.terminal.read(&mut bytes).unwrap_or(0);
            assert!(count > 0, "it ended without {text:?}: {}", self.seen);
            self.seen += &String::from_utf8_lossy(&bytes[..count]);
        }
    }

    /// Types `text`.
    pub fn type_in(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for the end: exit code and stdout, and in `seen` all that stood on the terminal.
    pub fn end(mut self) -> (Output, String) {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = self.terminal.read(&mut bytes) {
            self.seen += &String::from_utf8_lossy(&bytes[..count]);
        }
        (self.child.wait_with_output().unwrap(), self.seen)
    }
}
