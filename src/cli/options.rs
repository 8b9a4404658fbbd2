//! The flags that commands share, and the settings that come of them.

use std::path::PathBuf;

use crate::config::{ConfigSource, Settings, load};
use crate::failure::Failure;

/// Flags of every command, before or after its name.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Options {
    /// The agent's configuration; drop-ins are read from the directory beside it (agent.d for agent.toml).
    #[arg(long, global = true, env = "ECI_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The agent's state directory.
    #[arg(long, global = true, env = "ECI_STATE_DIR", value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// The agent's socket.
    #[arg(long, global = true, env = "ECI_SOCKET", value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Say more on stderr.
    #[arg(long, short, global = true)]
    pub(super) verbose: bool,
    /// Say everything on stderr.
    #[arg(long, global = true)]
    pub(super) debug: bool,
}

impl Options {
    /// The configuration, overridden by the flags.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        let source = self.config.as_deref().map_or_else(ConfigSource::system, ConfigSource::file);
        let mut settings = load(&source)?;
        if let Some(dir) = &self.state_dir {
            settings.state_dir = absolute(dir)?;
        }
        if let Some(socket) = &self.socket {
            settings.api.socket = absolute(socket)?;
        }
        if self.debug {
            settings.log.level = tracing::Level::DEBUG;
        }
        Ok(settings)
    }
}

/// A path that stays right whatever the working directory becomes.
pub(super) fn absolute(path: &std::path::Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::usage(format!("{} is no path: {error}", path.display())))
}
