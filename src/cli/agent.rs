//! `eci agent`: parse, wire, wait.

use std::path::PathBuf;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::logging::{self, LevelHandle};
use super::options::{Options, absolute};
use crate::agent::{Daemon, Handle, Request, Summary};
use crate::api::{Listener, serve};
use crate::config::Settings;
use crate::failure::Failure;

/// How long requests that run may take to end when the agent stops; the disk has as long again, and both together stay
/// within the 5 s that a stop may take.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

/// How often the service manager is told at most what the workloads are at: one that retries is not to keep it busy.
const TELL_EVERY: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(super) struct Args {
    /// The desired-state file to watch.
    #[arg(long, value_name = "FILE")]
    desired: Option<PathBuf>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Args {
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let settings = self.settings(options)?;
        let level = logging::init_unattended(&settings.log);
        let mut signals = Signals::new()?;
        let daemon = Daemon::open(settings.clone())?;
        let handle = daemon.handle();
        let listener = Listener::open(&settings.api)?;
        let shutdown = CancellationToken::new();
        let api = tokio::spawn(serve(listener, handle.clone(), shutdown.clone()));
        let mut daemon = tokio::spawn(daemon.run());
        tracing::info!(state_dir = %settings.state_dir.display(), desired = %settings.desired.path.display(), "ready");
        notify(&[NotifyState::Ready]);
        tokio::spawn(tell_status(handle.summary()));
        let mut running = settings;
        let ended = loop {
            tokio::select! {
                wanted = signals.next() => if wanted == Wanted::Stop { break Ok(()) },
                lost = &mut daemon => break Err(lost.map_or_else(|e| Failure::internal(e.to_string()), Failure::from)),
            }
            let _ = sd_notify::notify(&[NotifyState::Reloading]);
            match self.settings(options) {
                Ok(settings) => {
                    reload(&handle, &level, &running, settings.clone()).await;
                    handle.set_config_error(None);
                    running = settings;
                }
                Err(failure) => {
                    tracing::error!(%failure, "the configuration is not reloaded; what was read before stays in force");
                    handle.set_config_error(Some(&failure));
                }
            }
            handle.reread();
            notify(&[NotifyState::Ready]);
        };
        tracing::info!("stopping");
        notify(&[NotifyState::Stopping]);
        shutdown.cancel();
        let _ = tokio::time::timeout(DRAIN, api).await;
        daemon.abort();
        ended
    }

    fn settings(&self, options: &Options) -> Result<Settings, Failure> {
        let mut settings = options.settings()?;
        if let Some(desired) = &self.desired {
            settings.desired.path = absolute(desired)?;
        }
        Ok(settings)
    }
}

async fn reload(handle: &Handle, level: &LevelHandle, before: &Settings, settings: Settings) {
    let fixed = |settings: &Settings| {
        (
            settings.state_dir.clone(),
            settings.api.clone(),
            settings.desired.path.clone(),
            settings.desired.debounce,
            settings.log.format,
            settings.cache.access,
        )
    };
    if fixed(before) != fixed(&settings) {
        tracing::warn!(
            "state_dir, [api], [log] format, [cache] access and [desired] path and debounce change only with a restart"
        );
    }
    level.set(settings.log.level);
    // The loop ends only when the process does.
    let _ = handle.requests().send(Request::Reload(Box::new(settings))).await;
    tracing::info!("the configuration is reloaded");
}

/// Keeps what `systemctl status` shows of the agent up to date, until the agent ends.
async fn tell_status(mut summary: Summary) {
    while let Some(line) = summary.next().await {
        // Where systemd cannot be told, that was said when it was told ready.
        let _ = sd_notify::notify(&[NotifyState::Status(&line)]);
        tokio::time::sleep(TELL_EVERY).await;
    }
}

/// Tells systemd, where it wants to be told.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

#[derive(PartialEq, Eq)]
enum Wanted {
    Stop,
    Reload,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::internal(format!("signals cannot be waited for: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wanted {
        tokio::select! {
            _ = self.terminate.recv() => Wanted::Stop,
            _ = self.interrupt.recv() => Wanted::Stop,
            _ = self.hang_up.recv() => Wanted::Reload,
        }
    }
}
