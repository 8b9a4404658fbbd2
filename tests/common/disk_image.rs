//! File systems in files: made, mounted, and copied at the moment as a power cut would leave them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};

use super::agent::PATIENCE;

/// What the calling thread, and the threads and processes that it starts from now on, mount is seen by them alone, and is gone with
/// them however they end. None, and a line that says so, where that takes more than this process may.
pub fn mount_apart(test: &str) -> Option<()> {
    let apart = unshare(CloneFlags::CLONE_NEWNS).is_ok() && run("mount", &["--make-rprivate", "/"]).is_ok();
    if !apart {
        println!("SKIP {test}: only root can have mounts of its own");
    }
    apart.then_some(())
}

/// A way to make and to mount a file system.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static str,
    pub make: &'static [&'static str],
    /// How it is mounted so that it is written out late.
    pub options: &'static str,
    pub megabytes: u64,
}

const MAKE_EXT4: &[&str] =
    &["mkfs.ext4", "-q", "-F", "-m", "0", "-N", "1024", "-J", "size=4", "-E", "lazy_itable_init=0"];

/// Ordered, as it comes: data goes out before the journal that makes it visible. Without `auto_da_alloc` the kernel does not
/// make up for a sync that is missing before a rename.
pub const EXT4: Kind =
    Kind { name: "ext4", make: MAKE_EXT4, options: "noatime,commit=300,noauto_da_alloc", megabytes: 96 };
pub const EXT4_AS_IT_COMES: Kind = Kind { name: "ext4, defaults", options: "noatime,commit=300", ..EXT4 };
pub const EXT4_WRITEBACK: Kind =
    Kind { name: "ext4, data=writeback", options: "noatime,commit=300,data=writeback,noauto_da_alloc", ..EXT4 };
pub const XFS: Kind = Kind { name: "xfs", make: &["mkfs.xfs", "-q", "-f"], options: "noatime,nouuid", megabytes: 320 };
pub const BTRFS: Kind = Kind {
    name: "btrfs",
    make: &["mkfs.btrfs", "-q", "-f", "-m", "single"],
    options: "noatime,commit=300",
    megabytes: 256,
};

/// The file system of sticks: without links, owners and modes.
pub const VFAT: Kind = Kind { name: "vfat", make: &["mkfs.vfat"], options: "noatime", megabytes: 64 };
/// The same by FUSE, which keeps files that are open under other names when they are removed.
pub const EXFAT: Kind = Kind { name: "exfat", make: &["mkfs.exfat"], options: "noatime", megabytes: 64 };

/// Where there is room for images and their copies: in memory, where there is enough of it.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let room = nix::sys::statvfs::statvfs(memory).map_or(0, |found| found.blocks_available() * found.fragment_size());
    if room > 6 << 30 { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// Makes an empty file system of `kind` in the file `image`. None, and a line that says so, where the program for it is not
/// there.
pub fn make(test: &str, kind: Kind, image: &Path) -> Option<()> {
    fs::File::create(image).unwrap().set_len(kind.megabytes << 20).unwrap();
    let made = run(kind.make[0], &[&kind.make[1..], &[image.to_str().unwrap()]].concat());
    if let Err(error) = made {
        println!("SKIP {test}: {error}");
        return None;
    }
    // What was written as zeros, as a journal is, need not be copied each time.
    run("fallocate", &["--dig-holes", image.to_str().unwrap()]).unwrap();
    Some(())
}

/// A file system that is mounted, until it is dropped.
pub struct Mounted {
    dir: PathBuf,
    image: PathBuf,
    /// `loopN`
    device: String,
}

impl Mounted {
    /// Mounts `image` at `dir`.
    pub fn mount(kind: Kind, image: &Path, dir: &Path) -> Result<Self, String> {
        let (from, to) = (image.to_str().unwrap(), dir.to_str().unwrap());
        fs::create_dir_all(dir).unwrap();
        if kind.name == BTRFS.name {
            // It remembers file systems by what they call themselves, and takes an older copy for the one that it knows.
            let _ = run("btrfs", &["device", "scan", "--forget"]);
        }
        // A program has it, and the kernel does not know it by itself.
        let of_type: &[&str] = if kind.name == EXFAT.name { &["-t", "exfat-fuse"] } else { &[] };
        run("mount", &[of_type, &["-o", &format!("loop,{}", kind.options), from, to]].concat())?;
        let device = run("findmnt", &["-n", "-o", "SOURCE", "-M", to])?.trim().trim_start_matches("/dev/").to_owned();
        Ok(Self { dir: dir.to_owned(), image: image.to_owned(), device })
    }

    /// How much was written to the device so far, and how much is under way.
    fn written(&self) -> [String; 4] {
        let stat = fs::read_to_string(format!("/sys/block/{}/stat", self.device)).unwrap();
        let fields: Vec<_> = stat.split_ascii_whitespace().map(ToOwned::to_owned).collect();
        // Writes and their sectors, discards, and what is in flight (Documentation/block/stat.rst).
        [4, 6, 11, 8].map(|n| fields[n].clone())
    }

    /// What tells one state of the device from the next. Waits until nothing is under way.
    pub fn state(&self) -> [String; 4] {
        loop {
            let written = self.written();
            if written[3] == "0" {
                return written;
            }
            std::thread::yield_now();
        }
    }

    /// Copies the device to the file `to` as it is at one moment, and tells which state that was.
    pub fn copy(&self, to: &Path) -> [String; 4] {
        loop {
            let before = self.state();
            copy(&self.image, to);
            if self.written() == before {
                return before;
            }
        }
    }

    /// Unmounts it, and waits until that is done: a process that another thread has just begun has all files open that this
    /// one had, until it becomes another program.
    pub fn unmount(self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = run("umount", &[self.dir.to_str().unwrap()]) {
            assert!(error.contains("busy") && Instant::now() < deadline, "{error}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let is_mounted = run("mountpoint", &["-q", self.dir.to_str().unwrap()]).is_ok();
        if is_mounted {
            let _ = run("umount", &["-l", self.dir.to_str().unwrap()]);
        }
    }
}

/// Copies an image, holes included.
pub fn copy(from: &Path, to: &Path) {
    run("cp", &["--sparse=always", from.to_str().unwrap(), to.to_str().unwrap()]).unwrap();
}

/// What the program prints, or why it failed.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
