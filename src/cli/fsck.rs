//! `eci fsck`: verify everything on disk, and repair it.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use hyper::Method;
use tokio::time::sleep;

use super::client::{Client, ClientError};
use super::options::Options;
use super::output::{counted, json, plain, print};
use super::owner::enter;
use super::progress::observer;
use crate::agent::{FsckOrder, Status, offline_fsck};
use crate::config::Settings;
use crate::deploy::fsck::{Damage, Pace, Report};
use crate::failure::{Failure, Kind, Retry};
use crate::publish::Observer;
use crate::transfer::Progress;

/// How often the agent is asked how far it is.
const ASK_AGAIN: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(super) struct Args {
    /// Bring back what is broken: from where it is right on this disk, else from the network.
    #[arg(long)]
    repair: bool,
    /// A JSON document.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let settings = options.settings()?;
        options.start_log(&settings);
        let client = Client::new(&settings.api.socket);
        let bars: Arc<dyn Observer> = observer().into();
        let report = match ask(&client, self.repair, &bars).await {
            Err(ClientError::Absent { .. }) => {
                client.note_absent(&settings.state_dir);
                let (order, shown) = (FsckOrder { repair: self.repair, pace: Pace::Fast }, Arc::clone(&bars));
                offline(settings, order, move |progress| shown.begin("verifying", progress)).await
            }
            report => report.map_err(Failure::from),
        };
        bars.end();
        let report = report?;
        print(&if self.json { json(&report)? } else { render(&report) })?;
        match report.left() {
            0 => Ok(()),
            left => Err(damaged(left as u64, self.repair)),
        }
    }
}

/// Verifies as the owner of the state directory.
async fn offline(
    settings: Settings,
    order: FsckOrder,
    begun: impl FnOnce(&Arc<Progress>) + Send + 'static,
) -> Result<Report, Failure> {
    enter(&settings.state_dir)?;
    offline_fsck(settings, order, begun).await
}

/// Has the agent do it, and shows meanwhile how far it is.
async fn ask(client: &Client, repair: bool, bars: &Arc<dyn Observer>) -> Result<Report, ClientError> {
    let path = if repair { "/v1/fsck?repair=true" } else { "/v1/fsck" };
    tokio::select! {
        report = client.wait_for(Method::POST, path) => report,
        never = show(client, bars) => match never {},
    }
}

async fn show(client: &Client, bars: &Arc<dyn Observer>) -> Infallible {
    let mut shown: Option<Arc<Progress>> = None;
    loop {
        sleep(ASK_AGAIN).await;
        let Ok(Status { fsck, .. }) = client.get("/v1/status").await else { continue };
        if !fsck.running {
            continue;
        }
        let progress = shown.get_or_insert_with(|| {
            let progress = Arc::new(Progress::new(fsck.bytes_total, 0));
            bars.begin("verifying", &progress);
            progress
        });
        progress.receive(fsck.bytes_done.saturating_sub(progress.now().bytes_done));
    }
}

fn damaged(left: u64, repair: bool) -> Failure {
    let (message, retry) = if repair {
        (format!("{} could not be repaired", counted(left, "damaged part")), Retry::Later)
    } else {
        (
            format!("found damaged: {}; eci fsck --repair brings back what can be had", counted(left, "part")),
            Retry::Never,
        )
    };
    Failure { kind: Kind::Damaged, message, retry }
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    for (position, damage) in report.damage.iter().enumerate() {
        let is_same = |other: &&Damage| {
            other.inode.is_some()
                && (other.inode, &other.fault, &other.outcome) == (damage.inode, &damage.fault, &damage.outcome)
        };
        if report.damage.iter().take(position).any(|other| is_same(&other)) {
            continue;
        }
        let others = report.damage.iter().skip(position + 1).filter(is_same);
        let others: Vec<String> = others.map(|other| plain(&other.part.to_string())).collect();
        let others = if others.is_empty() { String::new() } else { format!(" (also {})", others.join(", ")) };
        let _ = writeln!(
            text,
            "{}{others}: {}; {}",
            plain(&damage.part.to_string()),
            plain(&damage.fault.to_string()),
            plain(&damage.outcome.to_string())
        );
    }
    for stray in &report.strays {
        let _ = writeln!(text, "stray: {}: no agent made it; it is left alone", plain(stray));
    }
    let (blobs, generations) = (counted(report.blobs, "blob"), counted(report.generations, "generation"));
    let bytes = ByteSize(report.bytes);
    let _ = writeln!(text, "verified {blobs} and {generations}, {bytes}");
    text
}
