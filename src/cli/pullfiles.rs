//! `eci pullfiles`: some files of an image, each to where it is wanted.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use super::lf_edge::non_empty_path;
use super::options::Options;
use super::output::print;
use super::progress::{observer, print_summary};
use super::pull::{lines, pulled_text};
use super::source::{Opened, Source};
use crate::failure::Failure;
use crate::oci::Platform;
use crate::publish::{Files, pull_files};

/// The arguments of `eci pullfiles`.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    /// Where the kernel goes.
    #[arg(long, value_name = "FILE")]
    kernel: Option<OsString>,
    /// Where the initial RAM disk goes.
    #[arg(long, value_name = "FILE")]
    initrd: Option<OsString>,
    /// Where the root disk goes.
    #[arg(long, value_name = "FILE")]
    root: Option<OsString>,
    /// Where the next further disk goes; may be given several times, and the order counts.
    #[arg(long = "disk", value_name = "FILE")]
    disks: Vec<PathBuf>,
    /// Where the image's config goes.
    #[arg(id = "image_config", long = "config", value_name = "FILE")]
    image_config: Option<OsString>,
    /// The agent's configuration, which says how registries are reached; before the command's name it is --config.
    #[arg(id = "config", long = "agent-config", value_name = "FILE")]
    _agent_config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) source: Source,
}

impl Args {
    /// Pulls, and prints the files, one a line.
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let Opened { settings, reference, platform } = self.source.open(options)?;
        let platform = platform.unwrap_or_else(Platform::host);
        let files = Files {
            kernel: non_empty_path(self.kernel),
            initrd: non_empty_path(self.initrd),
            root: non_empty_path(self.root),
            config: non_empty_path(self.image_config),
            disks: self.disks,
        };
        if files.paths().is_empty() {
            return Err(Failure::usage("name at least one of --kernel, --initrd, --root, --disk and --config"));
        }
        let started = Instant::now();
        let pulled = pull_files(&settings, &reference, &platform, files, observer().as_ref()).await?;
        print_summary(&pulled_text(&reference, &pulled), "fetched", pulled.moved, started);
        print(&lines(&pulled))
    }
}
