//! A disk as a flag names it.

use std::path::Path;
use std::str::FromStr;

use crate::eci::DiskFormat;
use crate::publish::Disk;
use crate::wording::list;

/// A disk on the command line, `FILE:TYPE` or `FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskArg(pub(super) Disk);

impl FromStr for DiskArg {
    type Err = String;

    /// Reads the type after the last colon. If there is no colon, or a path goes on after it, reads the type from the
    /// file's ending.
    fn from_str(text: &str) -> Result<Self, String> {
        let disk = |path: &str, format| {
            if path.is_empty() {
                Err("no file is named".to_owned())
            } else {
                Ok(Self(Disk { path: path.into(), format }))
            }
        };
        match text.rsplit_once(':') {
            Some((path, format)) if !format.contains(['/', '.']) => {
                let known = format.parse().map_err(|_| unknown_type(path, format))?;
                disk(path, known)
            }
            _ => {
                let ending = Path::new(text).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
                let format: Result<DiskFormat, _> = ending.to_ascii_lowercase().parse();
                disk(text, format.map_err(|_| unknown_ending(text, ending))?)
            }
        }
    }
}

/// Endings of files that most often are raw disks.
const RAW_ENDINGS: [&str; 8] = ["", "img", "bin", "dd", "disk", "ext4", "rootfs", "squashfs"];

fn unknown_ending(file: &str, ending: &str) -> String {
    let ending_said = if ending.is_empty() {
        "the file has no ending".to_owned()
    } else {
        format!(".{ending} is not a known disk type")
    };
    if file.is_empty() {
        "no file is named".to_owned()
    } else if RAW_ENDINGS.contains(&ending.to_ascii_lowercase().as_str()) {
        format!("{ending_said}: write {file}:raw, or the type that it has ({})", list(&DiskFormat::names()))
    } else {
        format!("{ending_said}: write {file}:TYPE; the types are {}", list(&DiskFormat::names()))
    }
}

fn unknown_type(file: &str, format: &str) -> String {
    let said =
        if format.is_empty() { "the type is missing".to_owned() } else { format!("{format} is not a known disk type") };
    format!("{said}: write {file}:TYPE; the types are {}", list(&DiskFormat::names()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_follows_the_last_colon_or_is_the_ending() {
        for (text, path, format) in [
            ("root.img:raw", "root.img", DiskFormat::Raw),
            ("a:b.img:qcow2", "a:b.img", DiskFormat::Qcow2),
            ("root.qcow2", "root.qcow2", DiskFormat::Qcow2),
            ("CD.ISO", "CD.ISO", DiskFormat::Iso),
            ("/a:b/root.raw", "/a:b/root.raw", DiskFormat::Raw),
            ("a:b.vmdk", "a:b.vmdk", DiskFormat::Vmdk),
        ] {
            assert_eq!(text.parse(), Ok(DiskArg(Disk { path: path.into(), format })), "{text}");
        }
        for text in ["root.img", "root", "root.raw:ext4", "root.raw:", ":raw", ""] {
            assert!(text.parse::<DiskArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_type_says_what_to_write() {
        for (text, said) in [
            ("root.img", ".img is not a known disk type: write root.img:raw, or the type that it has (raw, "),
            ("a/ROOT.IMG", ".IMG is not a known disk type: write a/ROOT.IMG:raw, or "),
            ("root", "the file has no ending: write root:raw, or "),
            ("root.vdi", ".vdi is not a known disk type: write root.vdi:TYPE; the types are raw, vhd, "),
            ("root.raw:ext4", "ext4 is not a known disk type: write root.raw:TYPE; the types are raw, "),
            ("root.raw:", "the type is missing: write root.raw:TYPE; "),
            ("", "no file is named"),
        ] {
            let error = text.parse::<DiskArg>().unwrap_err();
            assert!(error.starts_with(said) && !error.contains('"'), "{text}: {error}");
        }
        assert!("root".parse::<DiskArg>().unwrap_err().ends_with(", ova and vhdx)"));
    }
}
