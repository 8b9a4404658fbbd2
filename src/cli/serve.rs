//! `eci serve`: an image layout behind the distribution API.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::logging;
use super::options::Options;
use super::output::print;
use crate::failure::Failure;
use crate::publish::serve::Server;

/// The arguments of `eci serve`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The address and port to listen on; port 0 is a free one. There is no encryption and no login: beyond this machine
    /// it is for networks that are trusted.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,
    /// The image layout to serve, as DIR or oci:DIR.
    #[arg(value_name = "DIR", value_parser = |text: &str| layout(text))]
    dir: PathBuf,
}

impl Args {
    /// Prints the address, and serves until SIGINT or SIGTERM.
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        logging::init_unattended(&options.settings()?.log);
        // Before the address is told: who reads it may send the signal at once.
        let stop = stop_signal().map_err(|error| Failure::internal(format!("no signals: {error}")))?;
        let server = Server::bind(&self.dir, self.listen).await?;
        print(&format!("{}\n", server.local_addr()))?;
        server.run(stop).await;
        Ok(())
    }
}

/// The directory, as it stands in a reference or by itself.
fn layout(text: &str) -> Result<PathBuf, String> {
    let dir = text.strip_prefix("oci:").unwrap_or(text);
    if dir.is_empty() { Err("no directory is named".to_owned()) } else { Ok(dir.into()) }
}

fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
