//! `eci pull`: an image back into files.

use std::fmt::Write;
use std::path::PathBuf;

use super::logging;
use super::options::Options;
use super::output::print;
use super::progress::observer;
use crate::failure::Failure;
use crate::oci::{Platform, Reference};
use crate::publish::pull;

/// The arguments of `eci pull`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to; made where it does not exist. Files of the same names are replaced.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Which image of an index to take, such as linux/arm64; this machine's where not given.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// What: HOST[:PORT]/NAME[:TAG][@DIGEST] or oci:DIR[:TAG].
    #[arg(value_name = "REF")]
    reference: Reference,
}

impl Args {
    /// Pulls, and prints the files, one a line.
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let settings = options.settings()?;
        logging::init(&settings.log);
        let platform = self.platform.unwrap_or_else(Platform::host);
        let pulled = pull(&settings, &self.reference, &platform, &self.dir, observer().as_ref()).await?;
        let lines = pulled.files.iter().fold(String::new(), |mut lines, file| {
            let _ = writeln!(lines, "{}", file.display());
            lines
        });
        print(&lines)
    }
}
