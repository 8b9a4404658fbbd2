//! `eci demo`: the whole loop in one command: a registry of its own, a tiny image made on the spot, the real agent as a
//! process, a deployment, an update, a mistake and an outage. It needs no root and no network and leaves nothing behind.

mod image;
mod node;
mod story;

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::options::Options;
use crate::failure::{Failure, Kind, Retry};

/// It takes a second or two; a machine on which it takes longer than this has a fault worth telling.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(super) struct Args {}

impl Args {
    pub(super) async fn run(self, _options: &Options) -> Result<(), Failure> {
        let stage = Stage::new()?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        tokio::select! {
            told = story::tell(&stage) => told,
            () = tokio::time::sleep(PATIENCE) => Err(gave_up("it takes more than a minute")),
            _ = interrupt.recv() => Err(gave_up("interrupted")),
            _ = terminate.recv() => Err(gave_up("terminated")),
        }
    }
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::internal(format!("signals cannot be waited for: {error}")))
}

fn gave_up(why: &str) -> Failure {
    Failure { kind: Kind::Timeout, message: format!("the demo is given up: {why}"), retry: Retry::Later }
}

/// A directory for everything that the demo writes, removed at its end.
struct Stage {
    dir: PathBuf,
}

impl Stage {
    fn new() -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = std::env::temp_dir().join(format!("eci-demo-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        // Not one that exists: it could be somebody else's.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(|error| failed(&format!("make {}", dir.display()), &error))?;
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("eci: {} is left behind: {error}", self.dir.display());
        }
    }
}

fn failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(Kind::Io, format!("cannot {what}: {error}"), Retry::Later)
}
