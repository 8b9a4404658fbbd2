//! `eci pull`: an image back into files.

use std::fmt::Write;
use std::path::PathBuf;

use super::logging;
use super::options::Options;
use super::output::print;
use super::progress::observer;
use super::remote::{Remote, locate};
use crate::failure::Failure;
use crate::oci::Platform;
use crate::publish::{Pulled, pull};

/// The arguments of `eci pull`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to; made where it does not exist. Files of the same names are replaced.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Which image of an index to take, such as linux/arm64; this machine's where not given.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Take it from this image layout, oci:DIR or /DIR, by REF's tag, in place of the registry that REF names.
    #[arg(long, value_name = "DIR")]
    remote: Option<Remote>,
    /// What: HOST[:PORT]/NAME[:TAG][@DIGEST] or oci:DIR[:TAG][@DIGEST].
    #[arg(value_name = "REF")]
    reference: String,
}

impl Args {
    /// Pulls, and prints the files, one a line.
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let settings = options.settings()?;
        logging::init(&settings.log);
        let reference = locate(&self.reference, self.remote)?;
        let platform = self.platform.unwrap_or_else(Platform::host);
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
