//! `eci pull`: an image back into files.

use std::fmt::Write;
use std::path::PathBuf;

use super::options::Options;
use super::output::print;
use super::progress::observer;
use super::source::{Opened, Source};
use crate::failure::Failure;
use crate::publish::{Pulled, pull};

/// The arguments of `eci pull`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to; made where it does not exist. Files of the same names are replaced.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    #[command(flatten)]
    source: Source,
}

impl Args {
    /// Pulls, and prints the files, one a line.
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let Opened { settings, reference, platform } = self.source.open(options)?;
        let pulled = pull(&settings, &reference, &platform, &self.dir, observer().as_ref()).await?;
        print(&lines(&pulled))
    }
}

/// The files, one a line.
pub(super) fn lines(pulled: &Pulled) -> String {
    pulled.files.iter().fold(String::new(), |mut lines, file| {
        let _ = writeln!(lines, "{}", file.display());
        lines
    })
}
