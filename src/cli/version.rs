//! `eci version`: what this program is made of.

use serde::Serialize;

use super::output::{json, print};
use crate::failure::Failure;

/// A line `NAME VERSION LICENCE` for each crate in the program, by build.rs.
const COMPONENTS: &str = include_str!(concat!(env!("OUT_DIR"), "/components"));

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print JSON, with the crates in this program.
    #[arg(long)]
    json: bool,
}

/// A build of the program.
#[derive(Serialize)]
struct Build {
    name: &'static str,
    version: &'static str,
    /// As a target triple of Rust.
    target: &'static str,
    /// Cargo features that it was built with.
    features: &'static [&'static str],
    components: Vec<Component>,
}

/// A crate in the program, itself included.
#[derive(Serialize)]
struct Component {
    name: &'static str,
    version: &'static str,
    /// As an SPDX expression.
    license: &'static str,
}

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        let build = Build::current();
        if self.json {
            print(&json(&build)?)
        } else {
            print(&format!("{} {} ({})\n", build.name, build.version, build.target))
        }
    }
}

impl Build {
    fn current() -> Self {
        Self {
            name: "eci",
            version: env!("CARGO_PKG_VERSION"),
            target: env!("ECI_TARGET"),
            features: if cfg!(feature = "fault-points") { &["fault-points"] } else { &[] },
            components: COMPONENTS.lines().filter_map(component).collect(),
        }
    }
}

fn component(line: &'static str) -> Option<Component> {
    let mut parts = line.splitn(3, ' ');
    Some(Component { name: parts.next()?, version: parts.next()?, license: parts.next()? })
}
