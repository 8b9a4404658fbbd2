//! `eci gc`: remove what nothing leads to any more.

use std::fmt::Write;

use bytesize::ByteSize;
use hyper::Method;

use super::client::{Client, ClientError};
use super::options::Options;
use super::output::{json, print};
use super::owner::enter;
use crate::agent::offline_collect;
use crate::deploy::{Keep, Reason, Removed, Report};
use crate::failure::Failure;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Remove nothing, but say what would be removed, and why.
    #[arg(long)]
    dry_run: bool,
    /// A JSON document.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let client = options.client_settings()?;
        let path = if self.dry_run { "/v1/gc?dry-run=true" } else { "/v1/gc" };
        let report: Report = match Client::new(&client.settings.api.socket).ask(Method::POST, path).await {
            Ok(report) => report,
            Err(ClientError::Absent { .. }) => {
                // What stays is a matter of the whole configuration.
                let (dry_run, settings) = (self.dry_run, client.whole()?);
                Client::new(&settings.api.socket).note_absent(&settings.state_dir);
                enter(&settings.state_dir)?;
                crate::blocking::run(move || offline_collect(&settings, dry_run)).await?
            }
            Err(error) => return Err(error.into()),
        };
        print(&if self.json { json(&report)? } else { render(&report) })
    }
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    for removed in &report.removed {
        let _ = match removed {
            Removed::Generation { workload, generation, bytes, why } => {
                writeln!(text, "generation {workload}/{generation}, {}: {}", ByteSize(*bytes), reason(*why))
            }
            Removed::Blob { digest, bytes, why } => {
                writeln!(text, "blob {digest}, {}: {}", ByteSize(*bytes), reason(*why))
            }
        };
    }
    for kept in &report.kept {
        let _ = writeln!(text, "kept: generation {}/{}, {}", kept.workload, kept.generation, keep(kept.why));
    }
    let verb = if report.dry_run { "would free" } else { "freed" };
    let _ = writeln!(text, "{verb} {}", ByteSize(report.freed_bytes));
    text
}

fn reason(why: Reason) -> &'static str {
    match why {
        Reason::Retired => "its workload is no longer desired",
        Reason::Superseded => "there are later ones, and [cache] keep is for no more",
        Reason::Damaged => "it is damaged, and nobody knows what it is to have",
        Reason::RoomNeeded => "the room is needed",
        Reason::Unreferenced => "no generation has it, and nothing desired wants it",
    }
}

fn keep(why: Keep) -> &'static str {
    match why {
        Keep::Current => "current",
        Keep::Previous => "previous",
        Keep::Newer => "newer than current",
        Keep::InUse => "in use",
        Keep::Kept => "one of [cache] keep",
    }
}
