//! Flags and values of lf-edge's own tool that ours does not have, so that scripts for it run as they are.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use super::disk_arg::DiskArg;
use super::remote::Remote;
use crate::eci::DiskFormat;

/// Flags that are accepted and have no effect.
#[derive(clap::Args)]
pub(super) struct Ignored {
    /// The block size of decompression.
    #[arg(long = "blocksize", value_name = "N", hide = true, allow_hyphen_values = true)]
    _blocksize: Option<String>,
    /// The namespace in containerd.
    #[arg(id = "own_namespace", long = "namespace", value_name = "NS", hide = true)]
    _namespace: Option<String>,
}

/// Flags that may stand before the command's name.
#[derive(clap::Args)]
pub(super) struct Leading {
    #[arg(id = "leading_remote", long = "remote", value_name = "DIR", hide = true)]
    pub(super) remote: Option<Remote>,
    #[arg(long, value_name = "NS", hide = true)]
    namespace: Option<String>,
}

impl Leading {
    /// True if any of the flags is given.
    pub(super) fn is_given(&self) -> bool {
        self.remote.is_some() || self.namespace.is_some()
    }
}

/// A root disk; none for an empty value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RootDisk(pub(super) Option<DiskArg>);

impl FromStr for RootDisk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|disk| Self(Some(disk))) }
    }
}

/// Additional disks in one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disks(pub(super) Vec<DiskArg>);

impl FromStr for Disks {
    type Err = String;

    /// Reads `FILE:TYPE,FILE:TYPE`. A comma is part of a file's name unless a type precedes each one.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_typed = |item: &str| {
            item.rsplit_once(':').is_some_and(|(path, format)| !path.is_empty() && format.parse::<DiskFormat>().is_ok())
        };
        if text.is_empty() {
            Ok(Self(Vec::new()))
        } else if text.split(',').all(is_typed) {
            text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
        } else {
            text.parse().map(|disk| Self(vec![disk]))
        }
    }
}

/// A file's path; none for an empty value.
pub(super) fn non_empty_path(value: Option<OsString>) -> Option<PathBuf> {
    value.filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// A text; none for an empty value.
pub(super) fn non_empty_text(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::Parser;

    #[test]
    fn a_comma_separates_disks_after_a_type() {
        let paths = |text: &str| {
            let Disks(disks) = text.parse().unwrap();
            disks.into_iter().map(|DiskArg(disk)| format!("{}={}", disk.path.display(), disk.format.as_str())).collect()
        };
        let none: [String; 0] = [];
        let lists: [(&str, Vec<String>); 6] = [
            ("", none.to_vec()),
            ("a:raw", vec!["a=raw".to_owned()]),
            ("a:raw,b:qcow2", vec!["a=raw".to_owned(), "b=qcow2".to_owned()]),
            ("a,b.img:raw", vec!["a,b.img=raw".to_owned()]),
            ("a:b:iso,c:raw", vec!["a:b=iso".to_owned(), "c=raw".to_owned()]),
            ("x,y.vmdk", vec!["x,y.vmdk=vmdk".to_owned()]),
        ];
        for (text, expected) in lists {
            let found: Vec<String> = paths(text);
            assert_eq!(found, expected, "{text}");
        }
        for text in ["a:raw,b", "a:raw,", ",", "a:ext4"] {
            assert!(text.parse::<Disks>().is_err(), "{text}");
        }
    }

    #[test]
    fn switches_take_a_value_after_an_equals_sign() {
        for (flags, verbose, debug) in [
            ("", false, false),
            ("--verbose --debug", true, true),
            ("--verbose=false --debug=true", false, true),
            ("--verbose=1 --debug=F", true, false),
            ("--debug=true --debug=false -v", true, false),
        ] {
            for line in [format!("eci pull {flags} a.example/b"), format!("eci pull a.example/b {flags}")] {
                let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
                assert_eq!((cli.options.verbose, cli.options.debug), (verbose, debug), "{line}");
            }
        }
        let before = Cli::try_parse_from(["eci", "--debug", "pull", "a.example/b"]).unwrap();
        assert!(before.options.debug);
        assert!(Cli::try_parse_from(["eci", "pull", "--debug=maybe", "a.example/b"]).is_err());
    }

    #[test]
    fn flags_without_effect_are_accepted() {
        for line in [
            "eci pull --blocksize 10240 --namespace ns a.example/b",
            "eci pullfiles --blocksize=-1 --namespace= --kernel k a.example/b",
            "eci push --namespace ns --kernel k a.example/b",
            "eci --namespace ns --remote /dir pull a.example/b",
            "eci pull --dir a --dir b a.example/b",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in ["eci status --blocksize 1", "eci pull --blocksize", "eci pull --blocksise 1 a.example/b"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn the_remote_after_the_name_wins() {
        for (line, dir) in [
            ("eci --remote /a pull a.example/b", "/a"),
            ("eci --remote /a pull --remote /b a.example/b", "/b"),
            ("eci pull --remote /a --remote /b a.example/b", "/b"),
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let (_, command) = cli.with_leading().unwrap();
            let Command::Pull(args) = command else { panic!("{line}") };
            assert_eq!(args.source.remote, Some(dir.parse().unwrap()), "{line}");
        }
        for line in ["eci --remote /a status", "eci --namespace a status"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.with_leading().is_err(), "{line}");
        }
    }
}
