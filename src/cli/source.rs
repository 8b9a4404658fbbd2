//! Which image a command is about, and what it takes to get at it.

use super::lf_edge::Ignored;
use super::logging;
use super::options::Options;
use super::remote::{Remote, locate};
use crate::config::Settings;
use crate::failure::Failure;
use crate::oci::{Platform, Reference};

/// The arguments that say which image is taken.
#[derive(clap::Args)]
pub(super) struct Source {
    /// Which image of an index to take, such as linux/arm64; this machine's where not given.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Take it from this image layout (oci:DIR, /DIR or DIR) by REF's name and tag, instead of REF's registry.
    #[arg(long, value_name = "DIR")]
    pub(super) remote: Option<Remote>,
    #[command(flatten)]
    _ignored: Ignored,
    /// What: HOST[:PORT]/NAME[:TAG][@DIGEST] or oci:DIR[:TAG][@DIGEST].
    #[arg(value_name = "REF")]
    reference: String,
}

/// The image, and how it is reached.
pub(super) struct Opened {
    pub(super) settings: Settings,
    pub(super) reference: Reference,
    /// The platform that was asked for.
    pub(super) platform: Option<Platform>,
}

impl Source {
    /// Reads the configuration, and begins to log as it says.
    pub(super) fn open(self, options: &Options) -> Result<Opened, Failure> {
        let settings = options.settings()?;
        logging::init(&settings.log);
        let reference = locate(&self.reference, self.remote)?;
        Ok(Opened { settings, reference, platform: self.platform })
    }
}
