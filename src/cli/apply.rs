//! `eci apply FILE`: check, then install atomically.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::options::{Options, absolute};
use super::output::print;
use super::warn;
use crate::desired::{MAX_FILE_BYTES, read};
use crate::durable::{DurableError, is_mount_point, read_capped, replace_content};
use crate::failure::{Failure, Kind, Retry};

/// Mode of a new file: everybody may read what a node should run.
const MODE: u32 = 0o644;
/// Symbolic links that the kernel follows in one path.
const MAX_LINKS: usize = 40;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The file to install.
    file: PathBuf,
    /// The desired-state file to replace.
    #[arg(long, value_name = "FILE")]
    desired: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self, options: &Options) -> Result<(), Failure> {
        let (target, socket) = if let Some(desired) = &self.desired {
            (absolute(desired)?, None)
        } else {
            let settings = options.settings()?;
            (settings.desired.path, Some(settings.api.socket))
        };
        let reading = read(&self.file)?;
        let bytes = read_capped(&self.file, MAX_FILE_BYTES)
            .map_err(|error| changed(format!("cannot read {}: {error}", self.file.display())))?;
        if crate::oci::Digest::of(&bytes) != reading.sha256 {
            return Err(changed(format!("{} changed while it was read: try again", self.file.display())));
        }
        let target = followed(target);
        let target = target.canonicalize().unwrap_or(target);
        let is_busy = |error: &DurableError| error.io().raw_os_error() == Some(Errno::EBUSY as i32);
        if is_mount_point(&target) {
            return Err(mounted(&target));
        }
        match replace_content(&target, &bytes, MODE) {
            Err(error) if is_busy(&error) => return Err(mounted(&target)),
            replaced => replaced?,
        }
        let names: Vec<_> =
            reading.desired.workloads.iter().map(|(name, spec)| format!("  {name}: {}\n", spec.reference)).collect();
        print(&format!("installed as {}\n{}", target.display(), names.concat()))?;
        // One that this user may not open has an agent all the same.
        if let Some(socket) = socket
            && matches!(UnixStream::connect(&socket), Err(error) if error.kind() != io::ErrorKind::PermissionDenied)
        {
            warn(&format!("no agent answers on {}: the file counts when one starts", socket.display()));
        }
        Ok(())
    }
}

/// The file that a path leads to. A link that config management set is followed, not replaced, also one to a file that is
/// not there yet.
fn followed(mut path: PathBuf) -> PathBuf {
    for _ in 0..MAX_LINKS {
        let Ok(target) = path.read_link() else { break };
        path = path.parent().map_or(target.clone(), |dir| dir.join(target));
    }
    path
}

fn mounted(target: &Path) -> Failure {
    let message = format!(
        "{} is a mount point and cannot be replaced in one step: write to the file that is mounted there, or mount its directory instead; nothing was changed",
        target.display()
    );
    Failure { kind: Kind::Io, message, retry: Retry::Never }
}

fn changed(message: String) -> Failure {
    Failure { kind: Kind::DesiredInvalid, message, retry: Retry::Later }
}
