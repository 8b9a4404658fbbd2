//! A disk as a flag names it.

use std::path::Path;
use std::str::FromStr;

use crate::eci::DiskFormat;
use crate::publish::Disk;

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
            Some((path, format)) if !format.contains(['/', '.']) => disk(path, format.parse()?),
            _ => {
                let ending = Path::new(text).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
                let format: Result<DiskFormat, _> = ending.to_ascii_lowercase().parse();
                disk(text, format.map_err(|_| "its ending is that of no disk format: write FILE:TYPE".to_owned())?)
            }
        }
    }
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
}
