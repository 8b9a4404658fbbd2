//! What a guest writes to: private copies of disks, and overlays on them. An overlay is in the directory of the generation,
//! beside the disk that it lies on, and names it relative to itself: it can be opened wherever the directory is.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Group;

use super::{Base, GUEST_GROUP, Launch, LaunchFile};
use crate::desired::Disks;
use crate::durable::{DurableError, copy, link, make_file, replace_with, set_group};
use crate::eci::{File, OVERLAY, UnsafeDisk};
use crate::failure::{Classify, Kind, Retry};
use crate::unpack::{DiskReadError, Worker, read_disk};

/// Its owner and that group may write to it, and nobody else reads what a guest has written.
const GUEST_MODE: u32 = 0o660;
/// What makes overlays.
const QEMU_IMG: &str = "qemu-img";
/// An overlay is made in milliseconds; a disk that hangs takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it is made.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How much of what it says is passed on, in bytes.
const MAX_SAID: u64 = 2048;

/// Why a generation is not laid out.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The disk failed, or what makes overlays.
    #[error(transparent)]
    Disk(#[from] DurableError),
    /// The headers of a disk cannot be read.
    #[error(transparent)]
    Unread(#[from] DiskReadError),
    /// The program that makes overlays is not there.
    #[error(
        "there is no program {QEMU_IMG}, which makes overlays: install it (Debian has it in qemu-utils), or have disks = \"writable\""
    )]
    NoTool,
    /// The disk names other files. It was checked before it was deployed, so it has changed since, or comes from an older
    /// version.
    #[error("no overlay can be made")]
    Unsafe(#[source] UnsafeDisk),
    /// The disk is none that can be read as one.
    #[error("no overlay can lie on {name}, whose format is {format}: have disks = \"writable\" or \"read-only\"")]
    NoOverlay {
        /// The file.
        name: String,
        /// Its format.
        format: String,
    },
}

impl Classify for DiskError {
    fn kind(&self) -> Kind {
        match self {
            Self::Disk(error) => error.kind(),
            Self::Unread(error) => error.kind(),
            Self::NoTool => Kind::ToolMissing,
            Self::NoOverlay { .. } => Kind::Unsupported,
            Self::Unsafe(_) => Kind::UnsafeDisk,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Disk(error) => error.retry(),
            Self::Unread(error) => error.retry(),
            Self::NoTool => Retry::Later,
            Self::NoOverlay { .. } | Self::Unsafe(_) => Retry::Never,
        }
    }
}

/// How `file`, which `described` describes as it is in the image, is to be described where the guest may write to `disks`.
pub(super) fn for_guest(disks: Disks, file: &File, described: LaunchFile) -> LaunchFile {
    let Some(stable) = file.stable_name() else { return described };
    match disks {
        Disks::ReadOnly => described,
        Disks::Writable => LaunchFile { writable: true, ..described },
        Disks::Overlay | Disks::OverlayFollow => LaunchFile {
            path: described.path.with_file_name(stable + OVERLAY),
            format: "qcow2".to_owned(),
            writable: true,
            base: Some(Base { path: described.path, format: described.format }),
            ..described
        },
    }
}

/// Makes the private copy `to` of `blob`, durable but for its name.
pub(super) fn copy_for_guest(blob: &Path, to: &Path) -> Result<(), DurableError> {
    copy(blob, to, GUEST_MODE)?;
    give_to(GUEST_GROUP, to)
}

/// Lays the overlay that `described` is, if it is one, over its disk in the directory `dir`, durable but for its name. Where
/// `before` has one over the same disk it is that one, under one more name.
pub(super) fn lay_over(described: &LaunchFile, before: Option<&Launch>, dir: &Path) -> Result<(), DiskError> {
    let (Some(base), Some(name)) = (&described.base, described.name()) else { return Ok(()) };
    let overlay = dir.join(name);
    match before.iter().flat_map(|before| &before.files).find(|old| goes_over(old, described)) {
        Some(old) => Ok(link(&old.path, &overlay)?),
        None => make_overlay(base, &overlay),
    }
}

/// Puts a fresh one in the place of what a guest wrote to, and is lost. `blob` has the bytes of the disk.
pub(super) fn renew(blob: &Path, described: &LaunchFile, dir: &Path) -> Result<(), DiskError> {
    let path = dir.join(described.name().unwrap_or_default());
    match &described.base {
        Some(base) => replace_with(&path, |fresh| make_overlay(base, fresh)),
        None => replace_with(&path, |fresh| Ok(copy_for_guest(blob, fresh)?)),
    }
}

/// Whether what a guest wrote over one disk means the same over the other. The overlay names its disk, so that name has to be
/// the same as well.
fn goes_over(old: &LaunchFile, new: &LaunchFile) -> bool {
    let (Some(one), Some(other)) = (&old.base, &new.base) else { return false };
    let is_named_the_same = one.path.file_name() == other.path.file_name() && old.name() == new.name();
    is_named_the_same && (old.digest, old.size, &one.format) == (new.digest, new.size, &other.format)
}

fn make_overlay(base: &Base, overlay: &Path) -> Result<(), DiskError> {
    let name = base.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(format) = qemu_format(&base.format) else {
        return Err(DiskError::NoOverlay { name, format: base.format.clone() });
    };
    let no_overlay = || DiskError::NoOverlay { name: name.clone(), format: base.format.clone() };
    let image = read_disk(&Worker::of_process(), &overlay.with_file_name(&name))?.image.map_err(DiskError::Unsafe)?;
    let size = image.virtual_size.ok_or_else(no_overlay)?;
    let mut is_missing = false;
    let made = make_file(overlay, GUEST_MODE, |path| {
        let mut program = Command::new(QEMU_IMG);
        // Unsafe mode does not open the base, and so nothing that the base would name. A name with a colon would be taken
        // for an address.
        program.args(["create", "-q", "-u", "-f", "qcow2", "-F", format, "-b", &format!("./{name}")]);
        program.arg(path).arg(size.to_string());
        run(program, &mut is_missing)
    });
    if is_missing {
        return Err(DiskError::NoTool);
    }
    made?;
    Ok(give_to(GUEST_GROUP, overlay)?)
}

/// QEMU's name of a disk format; none if QEMU cannot read it.
pub fn qemu_format(format: &str) -> Option<&str> {
    match format {
        "raw" | "iso" => Some("raw"),
        "vhd" => Some("vpc"),
        "vmdk" | "qcow" | "qcow2" | "vhdx" => Some(format),
        _ => None,
    }
}

/// Runs a program to its end, and says whether it is not there.
fn run(mut program: Command, is_missing: &mut bool) -> io::Result<()> {
    program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = program.spawn().inspect_err(|error| *is_missing = error.kind() == io::ErrorKind::NotFound)?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{QEMU_IMG} did not end within {} s", PATIENCE.as_secs()),
                ));
            }
            None => std::thread::sleep(LOOK_AGAIN),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr {
        stderr.take(MAX_SAID).read_to_end(&mut said)?;
    }
    Err(io::Error::other(String::from_utf8_lossy(&said).trim().to_owned()))
}

/// Gives a file to a group, where there is one that this process may give it to.
fn give_to(group: &str, path: &Path) -> Result<(), DurableError> {
    let Ok(Some(group)) = Group::from_name(group) else { return Ok(()) };
    match set_group(path, group.gid.as_raw()) {
        Err(error) if error.io().kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!(%error, "the agent is no member of the group, so that a hypervisor under another uid cannot write to it");
            Ok(())
        }
        given => given,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_file_is_given_to_a_group_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let (blob, to) = (dir.path().join("blob"), dir.path().join("disk"));
        fs::write(&blob, "root").unwrap();
        copy_for_guest(&blob, &to).unwrap();
        let before = fs::metadata(&to).unwrap();
        assert_eq!(before.mode() & 0o7777, GUEST_MODE);
        give_to("no-such-group", &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().gid(), before.gid());
        let Ok(Some(other)) = Group::from_name("daemon") else {
            println!("SKIP a_file_is_given_to_a_group_where_there_is_one: there is no group \"daemon\"");
            return;
        };
        give_to("daemon", &to).unwrap();
        let is_given = fs::metadata(&to).unwrap().gid() == other.gid.as_raw();
        assert_eq!(is_given, nix::unistd::geteuid().is_root(), "only root gives to a group that it is no member of");
    }

    #[test]
    fn a_program_that_fails_or_is_missing_is_told_apart() {
        let run = |name: &str, script: &str| {
            let (mut command, mut is_missing) = (Command::new(name), false);
            command.args(["-c", script]);
            (super::run(command, &mut is_missing).map_err(|error| error.to_string()), is_missing)
        };
        assert_eq!(run("sh", "exit 0"), (Ok(()), false));
        assert_eq!(run("sh", "echo why >&2; exit 1"), (Err("why".to_owned()), false));
        assert!(run("/no/such/program", "").1);
    }
}
