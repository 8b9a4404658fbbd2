//! What stands in braces in the arguments of `eci exec`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::blockdev::blockdev;
use crate::deploy::{Launch, LaunchFile};
use crate::eci::{Role, UnsafeDisk};
use crate::failure::Kind;

/// How much of a name that is none is shown, in characters.
const SHOWN: usize = 40;

/// Where the values come from: a generation, and its directory.
pub(super) struct Values<'a> {
    pub(super) launch: &'a Launch,
    pub(super) dir: &'a Path,
}

/// Why an argument cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FillError {
    #[error(
        "there is no {{{0}}}; there are {{kernel}}, {{initrd}}, {{disk-root}}, {{disk-root.format}}, \
         {{disk-root.blockdev}}, the same of {{disk-0}} and so on, {{cmdline}}, {{dir}}, {{workload}} and {{generation}}, \
         and {{{{ is a brace"
    )]
    Unknown(String),
    #[error("a brace has no other end; {{{{ and }}}} are braces that mean nothing")]
    Unpaired,
    #[error("the image has no {0}")]
    Missing(String),
    #[error("{disk} has the format {format}, which QEMU cannot read: use {{{disk}}} and {{{disk}.format}}")]
    NoDriver { disk: String, format: String },
    #[error("{disk} is not given to QEMU: {refusal}")]
    Unsafe { disk: String, refusal: UnsafeDisk },
    #[error("the headers of {disk} cannot be read: {message}")]
    Read { disk: String, kind: Kind, message: String },
    #[error("the path {0} is not UTF-8 text, which QEMU's -blockdev takes alone: set state_dir to one that is")]
    NotText(String),
    #[error("{0} cannot be written as JSON: {1}")]
    Json(String, String),
}

impl FillError {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Unknown(_) | Self::Unpaired => Kind::Usage,
            Self::Missing(_) => Kind::FileMissing,
            Self::NoDriver { .. } => Kind::Unsupported,
            Self::Unsafe { .. } => Kind::UnsafeDisk,
            Self::Read { kind, .. } => *kind,
            Self::NotText(_) => Kind::ConfigInvalid,
            Self::Json(..) => Kind::Internal,
        }
    }
}

impl Values<'_> {
    /// Fills in `text`.
    pub(super) fn fill(&self, text: &OsStr) -> Result<OsString, FillError> {
        let (mut filled, mut rest) = (Vec::new(), text.as_bytes());
        while let Some((first, after)) = rest.split_first() {
            let doubled = after.first() == Some(first);
            rest = match first {
                b'{' | b'}' if doubled => {
                    filled.push(*first);
                    after.get(1..).unwrap_or_default()
                }
                b'{' => {
                    let end = after.iter().position(|byte| *byte == b'}').ok_or(FillError::Unpaired)?;
                    let (name, after) = after.split_at(end);
                    filled.extend(self.value(&String::from_utf8_lossy(name))?.into_vec());
                    after.get(1..).unwrap_or_default()
                }
                b'}' => return Err(FillError::Unpaired),
                other => {
                    filled.push(*other);
                    after
                }
            };
        }
        Ok(OsString::from_vec(filled))
    }

    fn value(&self, name: &str) -> Result<OsString, FillError> {
        match name {
            "cmdline" => Ok(self.launch.cmdline.clone().unwrap_or_default().into()),
            "dir" => Ok(self.dir.into()),
            "workload" => Ok(self.launch.workload.as_str().into()),
            "generation" => Ok(self.launch.generation.to_string().into()),
            "kernel" => self.path_of(Role::Kernel),
            "initrd" => self.path_of(Role::Initrd),
            _ => match name.split_once('.') {
                Some((disk, "format")) if is_disk(disk) => Ok(self.disk(disk)?.format.clone().into()),
                Some((disk, "blockdev")) if is_disk(disk) => Ok(blockdev(self.dir, disk, self.disk(disk)?)?.into()),
                None if is_disk(name) => {
                    self.disk(name)?;
                    // The stable name: that of the file comes from the image, and may have in it what options are parted by.
                    Ok(self.dir.join(name).into())
                }
                _ => Err(FillError::Unknown(name.chars().take(SHOWN).collect())),
            },
        }
    }

    fn path_of(&self, role: Role) -> Result<OsString, FillError> {
        let file = self.launch.files.iter().find(|file| file.role == role).and_then(LaunchFile::name);
        Ok(self.dir.join(file.ok_or_else(|| FillError::Missing(role.to_string()))?).into())
    }

    /// The disk that a stable name leads to.
    fn disk(&self, stable: &str) -> Result<&LaunchFile, FillError> {
        let target = fs::read_link(self.dir.join(stable)).ok();
        let target = target.as_deref().and_then(Path::to_str);
        let found = self.launch.names().find(|(name, _)| Some(*name) == target);
        found.map(|(_, file)| file).ok_or_else(|| FillError::Missing(stable.to_owned()))
    }
}

/// Whether it is how a disk is called: `disk-root`, `disk-0`, `disk-1` and so on.
fn is_disk(name: &str) -> bool {
    name.strip_prefix("disk-")
        .is_some_and(|rest| rest == "root" || rest.parse::<usize>().is_ok_and(|number| number.to_string() == rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::LaunchFile;
    use crate::desired::Disks;
    use crate::oci::{Digest, Platform};
    use std::os::unix::fs::symlink;

    fn launch(dir: &Path) -> Launch {
        let file = |role, name: &str, format: &str| LaunchFile {
            role,
            path: dir.join(name),
            format: format.to_owned(),
            size: 1,
            digest: Digest::of(b"x"),
            writable: false,
            base: None,
        };
        for (link, name) in [("disk-root", "disk-root-a,b.raw"), ("disk-10", "disk-10-x.qcow2")] {
            symlink(name, dir.join(link)).unwrap();
        }
        Launch {
            workload: "router".parse().unwrap(),
            generation: 7,
            reference: "a.example/b:c".parse().unwrap(),
            digest: Digest::of(b""),
            index_digest: None,
            platform: Platform::host(),
            cmdline: Some("console=ttyS0 {kernel}".to_owned()),
            disks: Disks::ReadOnly,
            files: vec![
                file(Role::Kernel, "kernel", "kernel"),
                file(Role::DiskRoot, "disk-root-a,b.raw", "raw"),
                file(Role::DiskAdditional, "disk-10-x.qcow2", "qcow2"),
            ],
            record: None,
        }
    }

    #[test]
    fn what_stands_in_braces_is_filled_in_once() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let launch = launch(dir);
        let fill =
            |text: &str| Values { launch: &launch, dir }.fill(text.as_ref()).map(|text| text.into_string().unwrap());
        let d = dir.display();
        for (text, filled) in [
            ("", String::new()),
            ("plain", "plain".to_owned()),
            ("file={disk-root},format={disk-root.format}", format!("file={d}/disk-root,format=raw")),
            ("{disk-10}:{disk-10.format}", format!("{d}/disk-10:qcow2")),
            ("{cmdline}", "console=ttyS0 {kernel}".to_owned()),
            ("{{{workload}}}-{generation}", "{router}-7".to_owned()),
            ("{{\"file\": \"{kernel}\"}}", format!("{{\"file\": \"{d}/kernel\"}}")),
            ("{dir}/x", format!("{d}/x")),
        ] {
            assert_eq!(fill(text), Ok(filled), "{text}");
        }
        for text in ["{", "}", "{kernel", "kernel}", "{kernel}}"] {
            assert_eq!(fill(text), Err(FillError::Unpaired), "{text}");
        }
        for text in [
            "{}",
            "{kernal}",
            "{disk-01}",
            "{disk-}",
            "{disk-+1}",
            "{disk-root.size}",
            "{disk-root.format.blockdev}",
            "{kernel.format}",
            "{ kernel}",
        ] {
            assert!(matches!(fill(text), Err(FillError::Unknown(_))), "{text}");
        }
        for text in ["{initrd}", "{disk-0}", "{disk-11.format}"] {
            assert!(matches!(fill(text), Err(FillError::Missing(_))), "{text}");
        }
    }

    #[test]
    fn what_is_no_text_is_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let launch = launch(dir.path());
        let values = Values { launch: &launch, dir: dir.path() };
        let text = OsStr::from_bytes(b"\xff{generation}\xfe");
        assert_eq!(values.fill(text).unwrap().as_bytes(), b"\xff7\xfe");
        assert!(matches!(values.fill(OsStr::from_bytes(b"{\xff}")), Err(FillError::Unknown(_))));
    }
}
