//! `eci push`: from files to a registry or an image layout.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::logging;
use super::options::Options;
use super::output::print;
use super::progress::observer;
use crate::blocking;
use crate::eci::DiskFormat;
use crate::failure::Failure;
use crate::oci::Reference;
use crate::publish::{Disk, Image, build, push};

/// The arguments of `eci push`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The root disk. TYPE is raw, vhd, vmdk, iso, qcow, qcow2, ova or vhdx; left out, it is told by the file's ending.
    #[arg(long, value_name = "FILE:TYPE")]
    root: Option<DiskArg>,
    /// The kernel.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The initial RAM disk.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// A further disk; may be given several times, and the order counts.
    #[arg(long = "disk", value_name = "FILE:TYPE")]
    disks: Vec<DiskArg>,
    /// The image's config, taken as it is; without it, one is made of author, operating system and architecture.
    #[arg(id = "image_config", long = "config", value_name = "FILE")]
    image_config: Option<PathBuf>,
    /// The agent's configuration, which says how registries are reached; before the command's name it is --config.
    #[arg(id = "config", long = "agent-config", value_name = "FILE")]
    _agent_config: Option<PathBuf>,
    /// Who made the image.
    #[arg(long, value_name = "TEXT")]
    author: Option<String>,
    /// The operating system that it is for, such as linux; this machine's where not given.
    #[arg(long, alias = "OS", value_name = "OS")]
    os: Option<String>,
    /// The architecture that it is for, such as amd64 or arm/v7; this machine's where not given.
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Where to: HOST[:PORT]/NAME[:TAG] or oci:DIR[:TAG].
    #[arg(value_name = "REF")]
    reference: Reference,
}

/// `FILE:TYPE`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DiskArg(Disk);

impl FromStr for DiskArg {
    type Err = String;

    /// The type follows the last colon. Where what follows is no type but a path goes on in it, or where there is no
    /// colon, the file's ending tells.
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

impl Args {
    /// Pushes, and prints what was pushed.
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let settings = options.settings()?;
        logging::init(&settings.log);
        if self.image_config.is_some() && (self.author.is_some() || self.os.is_some() || self.arch.is_some()) {
            tracing::warn!("--author, --os and --arch say nothing where --config gives the config");
        }
        let image = Image {
            kernel: self.kernel,
            initrd: self.initrd,
            root: self.root.map(|disk| disk.0),
            disks: self.disks.into_iter().map(|disk| disk.0).collect(),
            config: self.image_config,
            author: self.author,
            os: self.os,
            arch: self.arch,
        };
        let built = blocking::run(move || build(&image)).await?;
        let pushed = push(&settings, &self.reference, &built, observer().as_ref()).await?;
        print(&format!("{pushed}\n"))
    }
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
    fn the_type_follows_the_last_colon_or_is_told_by_the_ending() {
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
