//! `eci apply FILE`: check, then install atomically.

use std::path::PathBuf;

use super::options::{Options, absolute};
use super::output::print;
use crate::desired::read;
use crate::durable::write_atomic;
use crate::failure::{Failure, Kind, Retry};

/// Everybody may read what a node should run.
const MODE: u32 = 0o644;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The file to install.
    file: PathBuf,
    /// The desired-state file to replace.
    #[arg(long, value_name = "FILE")]
    desired: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self, options: &Options) -> Result<(), Failure> {
        let target = match &self.desired {
            Some(desired) => absolute(desired)?,
            None => options.settings()?.desired.path,
        };
        let reading = read(&self.file)?;
        let bytes = std::fs::read(&self.file)
            .map_err(|error| changed(format!("cannot read {}: {error}", self.file.display())))?;
        if crate::oci::Digest::of(&bytes) != reading.sha256 {
            return Err(changed(format!("{} changed while it was read: try again", self.file.display())));
        }
        // A link that config management set is followed, not replaced.
        let target = target.canonicalize().unwrap_or(target);
        write_atomic(&target, &bytes, MODE)?;
        let names: Vec<_> =
            reading.desired.workloads.iter().map(|(name, spec)| format!("  {name}: {}\n", spec.reference)).collect();
        print(&format!("installed as {}\n{}", target.display(), names.concat()))
    }
}

fn changed(message: String) -> Failure {
    Failure { kind: Kind::DesiredInvalid, message, retry: Retry::Later }
}
