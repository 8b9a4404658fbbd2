//! Questions to a person on a terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::failure::{Failure, Kind, Retry};

/// Asks for a line, which the terminal shows.
pub(super) async fn line(question: &str) -> Result<String, Failure> {
    let tty = terminal()?;
    ask(&tty, question).await
}

/// Asks for a line that the terminal does not show.
pub(super) async fn hidden_line(question: &str) -> Result<String, Failure> {
    let tty = terminal()?;
    // Dropped on every way out, so that the terminal shows what is typed again.
    let _hidden = Hidden::new(&tty).map_err(|error| failed(&error))?;
    ask(&tty, question).await
}

/// A terminal that does not show what is typed.
struct Hidden<'a> {
    tty: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn new(tty: &'a File) -> io::Result<Self> {
        let before = tcgetattr(tty)?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        // Of the line only its end is shown.
        hidden.local_flags.insert(LocalFlags::ECHONL);
        tcsetattr(tty, SetArg::TCSAFLUSH, &hidden)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.tty, SetArg::TCSANOW, &self.before);
    }
}

fn terminal() -> Result<File, Failure> {
    OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|error| failed(&error))
}

async fn ask(mut tty: &File, question: &str) -> Result<String, Failure> {
    // Before the question is shown, or a signal could leave the terminal hidden.
    let listen = |kind| signal(kind).map_err(|error| failed(&error));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tty.write_all(question.as_bytes()).map_err(|error| failed(&error))?;
    let (answer, answered) = oneshot::channel();
    let input = tty.try_clone().map_err(|error| failed(&error))?;
    // Not of the runtime's pool, whose end would wait for a line.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(input).read_line(&mut line);
        let _ = answer.send(read.map(|_| line));
    });
    tokio::select! {
        answered = answered => {
            let line = answered.map_err(|_| interrupted())?.map_err(|error| failed(&error))?;
            Ok(line.trim_end_matches(['\n', '\r']).to_owned())
        }
        _ = interrupt.recv() => Err(interrupted()),
        _ = terminate.recv() => Err(interrupted()),
    }
}

fn failed(error: &io::Error) -> Failure {
    Failure::new(Kind::Io, format!("cannot ask on the terminal: {error}"), Retry::Never)
}

fn interrupted() -> Failure {
    Failure::usage("interrupted; nothing was changed")
}
