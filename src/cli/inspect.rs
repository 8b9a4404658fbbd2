//! `eci inspect`: what an image is made of, without fetching it.

use super::logging;
use super::options::Options;
use super::output::{json, print};
use super::tree::render;
use crate::failure::Failure;
use crate::oci::{Platform, Reference};
use crate::publish::inspect;
use crate::registry::Registries;

/// The arguments of `eci inspect`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Which image of an index to show, such as linux/arm64; this machine's where not given.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// What: HOST[:PORT]/NAME[:TAG][@DIGEST] or oci:DIR[:TAG][@DIGEST].
    #[arg(value_name = "REF")]
    reference: Reference,
}

impl Args {
    /// Looks, and prints what is there.
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let settings = options.settings()?;
        logging::init(&settings.log);
        let found = inspect(&Registries::new(&settings), &self.reference, self.platform.as_ref()).await?;
        print(&if self.json { json(&found)? } else { render(&found) })
    }
}
