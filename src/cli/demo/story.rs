//! What the demo shows, step by step.

use std::net::{Ipv4Addr, SocketAddr};

use bytesize::ByteSize;
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::output::print;
use super::node::{Node, desire, state_dir};
use super::{Stage, failed, image};
use crate::agent::{Entry, Phase};
use crate::failure::Failure;
use crate::publish::serve::Server;

pub(super) async fn tell(stage: &Stage) -> Result<(), Failure> {
    say("1. An image is made on the spot, and a registry serves it.")?;
    let pushed = image::publish(stage, "v1").await?;
    let registry = Registry::open(stage).await?;
    let reference = |tag: &str| format!("{}/demo/node:{tag}", registry.address);
    say(&format!("   {} ({})", reference("v1"), pushed.digest))?;

    say("\n2. The agent starts on an empty node, and finds what the node should run.")?;
    desire(stage, &format!("image = \"{}\"\n", reference("v1")))?;
    show_text(&format!("image = \"{}\"", reference("v1")))?;
    let mut node = Node::start(stage).await?;
    deployed(&mut node, stage, "v1").await?;

    say("\n3. A new version: only what changed crosses the network, and `current` is swapped in one step.")?;
    image::publish(stage, "v2").await?;
    desire(stage, &format!("image = \"{}\"\n", reference("v2")))?;
    show_text(&format!("image = \"{}\"", reference("v2")))?;
    deployed(&mut node, stage, "v2").await?;

    say("\n4. A mistake in desired.toml: what runs stays, and the mistake is named with its place.")?;
    desire(stage, "image = \"127.0.0.1:5000/demo/no")?;
    show_text("image = \"127.0.0.1:5000/demo/no")?;
    node.follow(show, |entry| entry.event == "desired-rejected").await?;
    current(stage)?;

    say("\n5. The power goes, and the network with it: kill -9, no registry, another start.")?;
    registry.close().await;
    node.end(Signal::SIGKILL).await?;
    let mut node = Node::start(stage).await?;
    say(&format!("   it answers {} ms after its start, and serves what was current", node.ready_after.as_millis()))?;
    current(stage)?;
    node.follow(show, |entry| entry.event == "failed").await?;

    say("\n6. SIGTERM ends the agent.")?;
    let status = node.end(Signal::SIGTERM).await?;
    say(&format!("   {status}\n\nThat was all; nothing is left behind."))
}

/// Follows a deployment to its end, and shows what came of it.
async fn deployed(node: &mut Node, stage: &Stage, tag: &str) -> Result<(), Failure> {
    node.follow(show, |entry| entry.event == "phase" && entry.phase == Some(Phase::Active)).await?;
    current(stage)?;
    let status = node.status().await?;
    for progress in status.workloads.values().filter_map(|workload| workload.last_transfer) {
        let (total, wire) = (ByteSize(progress.bytes_total), ByteSize(progress.wire_bytes));
        say(&format!("   {tag} has {total}, of which {wire} crossed the network"))?;
    }
    Ok(())
}

/// Shows where `current` points, and what is there.
fn current(stage: &Stage) -> Result<(), Failure> {
    let link = state_dir(stage).join("current");
    let target = std::fs::read_link(&link).map_err(|error| failed("read the link current", &error))?;
    let entries = std::fs::read_dir(&link).map_err(|error| failed("list current", &error))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    say(&format!("   current -> {}: {}", target.display(), names.join(" ")))
}

fn show(entry: &Entry) -> Result<(), Failure> {
    say(&format!("   | {:16} {}", entry.event, entry.message))
}

fn show_text(text: &str) -> Result<(), Failure> {
    say(&format!("   desired.toml: {text}"))
}

fn say(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// The demo's registry, on a free port of loopback.
struct Registry {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Registry {
    async fn open(stage: &Stage) -> Result<Self, Failure> {
        let server = Server::bind(&image::layout(stage), (Ipv4Addr::LOCALHOST, 0).into()).await?;
        let (address, stop) = (server.local_addr(), CancellationToken::new());
        let serving = tokio::spawn(server.run(stop.clone().cancelled_owned()));
        Ok(Self { address, stop, serving })
    }

    async fn close(self) {
        self.stop.cancel();
        let _ = self.serving.await;
    }
}
