//! `eci pull`: an image back into files.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use super::lf_edge::non_empty_path;
use super::options::Options;
use super::output::print;
use super::progress::{observer, print_summary};
use super::source::{Opened, Source};
use crate::failure::Failure;
use crate::oci::{Platform, Reference};
use crate::publish::{Pulled, pull};

/// The arguments of `eci pull`.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    /// Where to; made where it does not exist. Files of the same names are replaced if an earlier pull wrote them.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: OsString,
    /// Replace files of the same names that no pull wrote, too.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    pub(super) source: Source,
}

impl Args {
    /// Pulls, and prints the files, one a line.
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let Opened { settings, reference, platform } = self.source.open(options)?;
        let platform = platform.unwrap_or_else(Platform::host);
        let dir = non_empty_path(Some(self.dir)).unwrap_or_else(|| PathBuf::from("."));
        let started = Instant::now();
        let pulled = pull(&settings, &reference, &platform, &dir, self.force, observer().as_ref()).await?;
        print_summary(&pulled_text(&reference, &pulled), "fetched", pulled.moved, started);
        print(&lines(&pulled))
    }
}

/// The start of the summary: the reference with the digest of the manifest that was chosen.
pub(super) fn pulled_text(reference: &Reference, pulled: &Pulled) -> String {
    let name = match reference.digest() {
        Some(_) => reference.to_string(),
        None => format!("{reference}@{}", pulled.target.manifest.digest),
    };
    format!("pulled {name}")
}

/// The files, one a line.
pub(super) fn lines(pulled: &Pulled) -> String {
    pulled.files.iter().fold(String::new(), |mut lines, file| {
        let _ = writeln!(lines, "{}", file.display());
        lines
    })
}
