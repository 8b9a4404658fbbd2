//! `eci push`: from files to a registry or an image layout.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use super::disk_arg::DiskArg;
use super::lf_edge::{Disks, Ignored, RootDisk, non_empty_path, non_empty_text};
use super::logging;
use super::options::Options;
use super::output::print;
use super::progress::{observer, print_summary};
use super::remote::{Remote, locate};
use crate::eci::LABEL_PREFIX;
use crate::failure::Failure;
use crate::oci::{Platform, is_repository};
use crate::publish::{Format, Image, push};

/// The arguments of `eci push`.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    /// The root disk. TYPE is raw, vhd, vmdk, iso, qcow, qcow2, ova or vhdx; left out, it is told by the file's ending.
    #[arg(long, value_name = "FILE:TYPE")]
    root: Option<RootDisk>,
    /// The kernel.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The initial RAM disk.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// An additional disk, or several with commas between them; may be given several times, and the order counts.
    #[arg(long = "disk", value_name = "FILE:TYPE")]
    disks: Vec<Disks>,
    /// A further file that is carried along under its own name; may be given several times.
    #[arg(long = "other", value_name = "FILE")]
    others: Vec<PathBuf>,
    /// The image's config, taken as it is; without it, one is made of author, operating system and architecture.
    #[arg(id = "image_config", long = "config", value_name = "FILE")]
    image_config: Option<OsString>,
    /// The agent's configuration, which says how registries are reached; before the command's name it is --config.
    #[arg(id = "config", long = "agent-config", value_name = "FILE")]
    _agent_config: Option<PathBuf>,
    /// How files become layers: artifacts as they are, legacy as a gzipped tar each, for older tools.
    #[arg(long, value_name = "FORMAT", default_value = "artifacts")]
    format: FormatArg,
    /// The same as --format legacy.
    #[arg(long, conflicts_with = "format")]
    legacy: bool,
    /// Who made the image.
    #[arg(long, value_name = "TEXT")]
    author: Option<String>,
    /// The operating system that it is for, such as linux; this machine's where not given.
    #[arg(long, alias = "OS", value_name = "OS")]
    os: Option<String>,
    /// The architecture that it is for, such as amd64 or arm/v7; this machine's where not given.
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Push an index with an image for this platform, such as linux/arm64, beside those that REF has for others; may be
    /// given several times.
    #[arg(long = "platform", value_name = "PLATFORM", conflicts_with_all = ["os", "arch"])]
    platforms: Vec<Platform>,
    /// Push a disk although its bytes contradict its TYPE; nodes refuse most of them. Replace an index by one image.
    #[arg(long)]
    force: bool,
    /// An annotation of the manifest; may be given several times.
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    annotations: Vec<Note>,
    /// Push into this image layout (oci:DIR, /DIR or DIR) under REF's tag, instead of REF's registry.
    #[arg(long, value_name = "DIR")]
    pub(super) remote: Option<Remote>,
    #[command(flatten)]
    _ignored: Ignored,
    /// Another repository of the same registry, which may have some of the blobs: they are taken from there where the
    /// registry allows it; may be given several times.
    #[arg(long = "mount-from", value_name = "NAME", value_parser = repository)]
    mount_from: Vec<String>,
    /// Where to: HOST[:PORT]/NAME[:TAG] or oci:DIR[:TAG].
    #[arg(value_name = "REF")]
    reference: String,
}

/// How files become layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FormatArg {
    Artifacts,
    Legacy,
}

/// `KEY=VALUE`.
#[derive(Clone, Debug)]
struct Note(String, String);

impl FromStr for Note {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self(key.to_owned(), value.to_owned())),
            _ => Err("write KEY=VALUE".to_owned()),
        }
    }
}

/// A repository's name without its registry.
fn repository(text: &str) -> Result<String, String> {
    if is_repository(text) {
        Ok(text.to_owned())
    } else {
        Err("write the name of a repository, without its registry and without a tag".to_owned())
    }
}

impl Args {
    /// Pushes, and prints what was pushed.
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        check_notes(&self.annotations)?;
        let settings = options.settings()?;
        logging::init(&settings.log);
        let reference = locate(&self.reference, self.remote.clone())?;
        let mount_from = self.mount_from.clone();
        let image = self.image();
        if image.config.is_some() && (image.author.is_some() || image.os.is_some() || image.arch.is_some()) {
            tracing::warn!("--author, --os and --arch say nothing where --config gives the config");
        }
        let started = Instant::now();
        let pushed = push(&settings, &reference, &image, &mount_from, observer().as_ref()).await?;
        print_summary(&format!("pushed {}", pushed.reference), "sent", pushed.moved, started);
        print(&format!("{pushed}\n"))
    }

    fn image(self) -> Image {
        let legacy = self.legacy || self.format == FormatArg::Legacy;
        Image {
            kernel: self.kernel,
            initrd: self.initrd,
            root: self.root.and_then(|RootDisk(disk)| disk).map(|DiskArg(disk)| disk),
            disks: self.disks.into_iter().flat_map(|Disks(disks)| disks).map(|DiskArg(disk)| disk).collect(),
            others: self.others,
            config: non_empty_path(self.image_config),
            author: non_empty_text(self.author),
            os: non_empty_text(self.os),
            arch: non_empty_text(self.arch),
            format: if legacy { Format::Legacy } else { Format::Artifacts },
            platforms: self.platforms,
            force: self.force,
            annotations: self.annotations.into_iter().map(|Note(key, value)| (key, value)).collect(),
        }
    }
}

/// Refuses notes of which one would be lost, and those that would do nothing.
fn check_notes(notes: &[Note]) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for Note(key, _) in notes {
        if !seen.insert(key) {
            return Err(Failure::usage(format!("--annotation {key} is given twice")));
        }
        if key.starts_with(LABEL_PREFIX) {
            let message = "names a path in a container image, and does nothing in an image of files: \
                           use --kernel, --initrd, --root and --disk";
            return Err(Failure::usage(format!("--annotation {key} {message}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_config_after_the_name_is_the_images() {
        Cli::command().debug_assert();
        for (line, agents, images) in [
            ("eci push --config i.json a.example/b", None, Some("i.json")),
            ("eci --config a.toml push a.example/b", Some("a.toml"), None),
            ("eci --config a.toml push --config i.json a.example/b", Some("a.toml"), Some("i.json")),
            ("eci push --agent-config a.toml --config i.json a.example/b", Some("a.toml"), Some("i.json")),
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let Command::Push(args) = cli.command else { panic!("{line}") };
            assert_eq!(
                (cli.options.config, args.image_config),
                (agents.map(Into::into), images.map(Into::into)),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_no_note_and_no_repository_is_refused() {
        let pushed = |line: &str| Cli::try_parse_from(format!("eci push {line} --kernel k a.example/b").split(' '));
        assert!(pushed("--annotation a=b=c --annotation d= --mount-from edge/base").is_ok());
        for line in ["--annotation a", "--annotation =b", "--mount-from a:b", "--mount-from A", "--format tar"] {
            assert!(pushed(line).is_err(), "{line}");
        }
        assert!(pushed("--legacy --format legacy").is_err() && pushed("--platform a/b --os a").is_err());
    }

    #[test]
    fn notes_that_would_be_lost_are_refused() {
        let check = |notes: &[&str]| check_notes(&notes.iter().map(|note| note.parse().unwrap()).collect::<Vec<_>>());
        assert!(check(&["a=b", "b=b"]).is_ok());
        for notes in [&["a=b", "a=c"][..], &["org.lfedge.eci.artifact.root=/x"]] {
            assert_eq!(check(notes).unwrap_err().kind, crate::failure::Kind::Usage, "{notes:?}");
        }
    }
}
