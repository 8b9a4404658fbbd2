//! Disks as QEMU's option `-blockdev` takes them: every node named, so that QEMU opens no file that an image's own
//! header names.

use std::path::Path;

use serde::Serialize;

use super::complain;
use super::placeholder::FillError;
use crate::deploy::{LaunchFile, qemu_format};
use crate::eci::BACKING_FILE;
use crate::failure::{Classify, full_text};
use crate::unpack::{DiskReadError, DiskReport, Worker, WorkerError, read_disk};

/// A format node of QEMU's block layer.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct FormatNode<'a> {
    driver: &'a str,
    node_name: String,
    read_only: bool,
    file: FileNode<'a>,
    #[serde(skip_serializing_if = "Backing::is_unknown")]
    backing: Backing<'a>,
}

/// The node below a format node.
#[derive(Serialize)]
#[serde(untagged)]
enum Backing<'a> {
    /// A format that has none below; QEMU refuses the key.
    Unknown,
    /// Null: QEMU ignores what the header names.
    Nothing,
    /// The base of an overlay.
    Node(Box<FormatNode<'a>>),
}

impl Backing<'_> {
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }
}

/// A file as the node below a format.
#[derive(Serialize)]
struct FileNode<'a> {
    driver: &'static str,
    filename: &'a str,
}

/// Value of `-blockdev` for the disk with the stable name `stable` in the directory `dir`, as JSON.
pub(super) fn blockdev(dir: &Path, stable: &str, disk: &LaunchFile) -> Result<String, FillError> {
    let (top, base) = (dir.join(stable), disk.base.as_ref());
    // An overlay is the agent's own; the image's disk is the one below.
    let below = base.map(|base| (dir.join(base.path.file_name().unwrap_or_default()), &*base.format));
    let below = match &below {
        Some((path, format)) => Some(Box::new(node(&format!("{stable}-base"), path, format, true, None)?)),
        None => None,
    };
    let node = node(stable, &top, &disk.format, !disk.writable, below)?;
    serde_json::to_string(&node).map_err(|error| FillError::Json(stable.to_owned(), error.to_string()))
}

fn node<'a>(
    name: &str,
    path: &'a Path,
    format: &'a str,
    read_only: bool,
    below: Option<Box<FormatNode<'a>>>,
) -> Result<FormatNode<'a>, FillError> {
    let no_driver = || FillError::NoDriver { disk: name.to_owned(), format: format.to_owned() };
    let driver = qemu_format(format).ok_or_else(no_driver)?;
    if driver != "raw" {
        check(&Worker::of_process(), name, path, below.is_some().then_some(BACKING_FILE))?;
    }
    let filename = path.to_str().ok_or_else(|| FillError::NotText(path.display().to_string()))?;
    let backing = match below {
        Some(below) => Backing::Node(below),
        None if matches!(driver, "qcow" | "qcow2" | "vmdk") => Backing::Nothing,
        None => Backing::Unknown,
    };
    let file = FileNode { driver: "file", filename };
    Ok(FormatNode { driver, node_name: name.to_owned(), read_only, file, backing })
}

/// Refuses an image that needs another file than the one that it `may_name`: an external data file or an extent cannot
/// be ruled out by an option. If no worker can be had, the headers are read in this process, and a warning says so: what
/// is current boots.
fn check(worker: &Worker, name: &str, path: &Path, may_name: Option<&str>) -> Result<(), FillError> {
    match read_disk(worker, path) {
        Ok(DiskReport { image: Err(refusal), .. }) if refusal.named_file().is_some_and(|it| Some(it) != may_name) => {
            Err(FillError::Unsafe { disk: name.to_owned(), refusal })
        }
        Ok(_) => Ok(()),
        Err(DiskReadError::Worker { source: error @ (WorkerError::Start(_) | WorkerError::Unconfined(_)), .. }) => {
            complain(&format!("the headers of {name} are read without a worker: {}", full_text(&error)));
            check(&Worker::unconfined(), name, path, may_name)
        }
        Err(error) => Err(FillError::Read { disk: name.to_owned(), kind: error.kind(), message: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::Base;
    use crate::eci::Role;
    use crate::failure::Kind;
    use crate::oci::Digest;
    use serde_json::{Value, json};
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    const FORMATS: [(&str, &str, bool); 7] = [
        ("raw", "raw", false),
        ("iso", "raw", false),
        ("vhd", "vpc", false),
        ("vhdx", "vhdx", false),
        ("vmdk", "vmdk", true),
        ("qcow", "qcow", true),
        ("qcow2", "qcow2", true),
    ];

    fn disk(format: &str, writable: bool, base: Option<Base>) -> LaunchFile {
        let (size, digest) = (1, Digest::of(b"x"));
        LaunchFile {
            role: Role::DiskRoot,
            path: "/elsewhere/x".into(),
            format: format.to_owned(),
            size,
            digest,
            writable,
            base,
        }
    }

    fn filled(dir: &Path, stable: &str, disk: &LaunchFile) -> Value {
        serde_json::from_str(&blockdev(dir, stable, disk).unwrap()).unwrap()
    }

    #[test]
    fn each_format_has_a_node_of_its_driver() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk-10");
        fs::write(&path, "no header").unwrap();
        for (format, driver, has_backing) in FORMATS {
            for writable in [false, true] {
                let mut expected = json!({
                    "driver": driver,
                    "node-name": "disk-10",
                    "read-only": !writable,
                    "file": {"driver": "file", "filename": path},
                });
                if has_backing {
                    expected["backing"] = Value::Null;
                }
                assert_eq!(filled(dir.path(), "disk-10", &disk(format, writable, None)), expected, "{format}");
            }
        }
        for format in ["ova", "", "nbd"] {
            let error = blockdev(dir.path(), "disk-0", &disk(format, false, None)).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        }
    }

    #[test]
    fn an_overlay_has_its_base_as_a_read_only_node() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["disk-root-a,b.raw", "disk-root-a,b.qcow2"].map(|name| dir.path().join(name));
        for name in &names {
            fs::write(name, "no header").unwrap();
        }
        fs::write(dir.path().join("disk-root"), header(false)).unwrap();
        let base = |path: &Path, format: &str| Some(Base { path: path.to_owned(), format: format.to_owned() });
        let raw = filled(dir.path(), "disk-root", &disk("qcow2", true, base(&names[0], "raw")));
        assert_eq!(
            raw["backing"],
            json!({
                "driver": "raw",
                "node-name": "disk-root-base",
                "read-only": true,
                "file": {"driver": "file", "filename": names[0]},
            })
        );
        assert_eq!((&raw["node-name"], &raw["read-only"]), (&json!("disk-root"), &json!(false)));
        let qcow2 = filled(dir.path(), "disk-root", &disk("qcow2", true, base(&names[1], "qcow2")));
        assert_eq!((&qcow2["backing"]["driver"], &qcow2["backing"]["backing"]), (&json!("qcow2"), &Value::Null));
        assert!(qcow2["backing"].as_object().unwrap().contains_key("backing"), "the chain ends there");
    }

    /// A qcow2 header that names a backing file, or an external data file.
    fn header(external: bool) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        let (at, byte) = if external { (79, 0b100) } else { (15, 200) };
        bytes[at] = byte;
        bytes
    }

    #[test]
    fn an_image_that_names_another_file_is_refused_by_its_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk-0");
        for external in [false, true] {
            fs::write(&path, header(external)).unwrap();
            let error = blockdev(dir.path(), "disk-0", &disk("qcow2", false, None)).unwrap_err();
            assert_eq!((error.kind(), error.kind().exit_code()), (Kind::UnsafeDisk, 65), "{error}");
            let base = Some(Base { path: path.clone(), format: "qcow2".to_owned() });
            fs::write(dir.path().join("disk-root"), header(false)).unwrap();
            let error = blockdev(dir.path(), "disk-root", &disk("qcow2", true, base)).unwrap_err();
            assert_eq!(error.kind(), Kind::UnsafeDisk, "{error}");
            // A guest may write such a header to its raw disk, where it means nothing.
            filled(dir.path(), "disk-0", &disk("raw", true, None));
        }
        // An overlay names its base, and nothing else: this is not the agent's work.
        fs::write(dir.path().join("disk-root"), header(true)).unwrap();
        fs::write(&path, "no header").unwrap();
        let base = Some(Base { path: path.clone(), format: "raw".to_owned() });
        let error = blockdev(dir.path(), "disk-root", &disk("qcow2", true, base)).unwrap_err();
        assert_eq!(error.kind(), Kind::UnsafeDisk, "{error}");
        fs::remove_file(&path).unwrap();
        let error = blockdev(dir.path(), "disk-0", &disk("qcow2", false, None)).unwrap_err();
        assert!(matches!(error, FillError::Read { .. }), "{error}");
    }

    #[test]
    fn disks_are_checked_without_a_worker_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk-0");
        let absent = || Worker::program("/nonexistent/eci", &[]);
        let unconfined = || Worker::program("/bin/sh", &["-c", r"printf '\002\006\000\000\000no bpf'", "worker"]);
        let check = |worker: Worker, may_name| check(&worker, "disk-0", &path, may_name);
        fs::write(&path, header(false)).unwrap();
        for worker in [absent(), unconfined(), Worker::unconfined()] {
            assert_eq!(check(worker.clone(), None).unwrap_err().kind(), Kind::UnsafeDisk);
            check(worker, Some(BACKING_FILE)).unwrap();
        }
        // An overlay names the disk below, and nothing else.
        fs::write(&path, header(true)).unwrap();
        assert_eq!(check(Worker::unconfined(), Some(BACKING_FILE)).unwrap_err().kind(), Kind::UnsafeDisk);
        // A disk that ends its worker is not one that was checked.
        let ended = check(Worker::program("/bin/sh", &["-c", "exit 3", "worker"]), None).unwrap_err();
        assert_eq!(ended.kind(), Kind::WorkerFailed, "{ended}");
    }

    #[test]
    fn a_path_that_is_not_text_is_refused() {
        let dir = Path::new(OsStr::from_bytes(b"/\xff"));
        let error = blockdev(dir, "disk-0", &disk("raw", false, None)).unwrap_err();
        assert!(matches!(error, FillError::NotText(_)), "{error}");
    }
}
