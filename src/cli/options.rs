//! The flags that commands share, and the settings that come of them.

use std::path::PathBuf;

use clap::ArgAction;
use tracing::Level;

use super::{logging, warn};
use crate::config::{ConfigFiles, ConfigSource, Settings, load};
use crate::failure::{Failure, Kind, Retry};

/// What the kernel has room for in a socket's address, less the zero at its end (`unix(7)`).
const MAX_SOCKET_PATH: usize = 107;

/// Flags of every command, before or after its name.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
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
    /// Say on stderr what is decided and why, and each retry.
    #[arg(long, short, global = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(value_name = "BOOL", value_parser = switch, default_value = "false", default_missing_value = "true")]
    #[arg(hide_default_value = true)]
    pub(super) verbose: bool,
    /// Say the same, and each request and answer, without secrets.
    #[arg(long, global = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(value_name = "BOOL", value_parser = switch, default_value = "false", default_missing_value = "true")]
    #[arg(hide_default_value = true)]
    pub(super) debug: bool,
}

/// The value of a switch, by the words that the flags of Go programs take.
fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// The configuration as far as it can be read.
pub(super) struct ClientSettings {
    /// Settings that could be read; defaults for the rest.
    pub(super) settings: Settings,
    /// The first error.
    pub(super) error: Option<Failure>,
}

impl ClientSettings {
    /// The settings for work that needs all of them; the error if there was one.
    pub(super) fn whole(self) -> Result<Settings, Failure> {
        self.error.map_or(Ok(self.settings), Err)
    }
}

impl Options {
    /// The files of the configuration.
    pub(super) fn source(&self) -> ConfigSource {
        self.config.as_deref().map_or_else(ConfigSource::system, ConfigSource::file)
    }

    /// The configuration, overridden by the flags.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        self.overridden(load(&self.source())?)
    }

    /// The configuration for a command that needs the paths of the agent alone: an error of it is a warning.
    pub(super) fn client_settings(&self) -> Result<ClientSettings, Failure> {
        let files = ConfigFiles::read(&self.source());
        let error = match files.settings() {
            Ok(settings) => {
                let settings = self.overridden(settings)?;
                self.start_log(&settings);
                return Ok(ClientSettings { settings, error: None });
            }
            Err(error) => Failure::from(error),
        };
        let Some(readable) = files.readable().or_else(|| self.socket.as_ref().map(|_| Settings::default())) else {
            return Err(error);
        };
        let settings = self.overridden(readable)?;
        self.start_log(&settings);
        let (socket, dir) = (settings.api.socket.display(), settings.state_dir.display());
        warn(&format!("{}; going on with socket {socket} and state directory {dir}", error.message));
        Ok(ClientSettings { settings, error: Some(error) })
    }

    /// Starts the log of a command that says nothing on stderr unless `-v` or `--debug` is given.
    pub(super) fn start_log(&self, settings: &Settings) {
        if self.verbose || self.debug {
            logging::init(&settings.log);
        }
    }

    fn overridden(&self, mut settings: Settings) -> Result<Settings, Failure> {
        if let Some(dir) = &self.state_dir {
            settings.state_dir = absolute(dir)?;
        }
        if let Some(socket) = &self.socket {
            settings.api.socket = absolute(socket)?;
        }
        let socket = &settings.api.socket;
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            let kind = if self.socket.is_some() { Kind::Usage } else { Kind::ConfigInvalid };
            let message = format!(
                "the path of a Unix socket has at most {MAX_SOCKET_PATH} bytes, and this one is longer: {}",
                socket.display()
            );
            return Err(Failure { kind, message, retry: Retry::Never });
        }
        let asked = match (self.debug, self.verbose) {
            (true, _) => Level::TRACE,
            (false, true) => Level::DEBUG,
            (false, false) => Level::ERROR,
        };
        settings.log.level = settings.log.level.max(asked);
        Ok(settings)
    }
}

/// A path that stays right whatever the working directory becomes.
pub(super) fn absolute(path: &std::path::Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::usage(format!("{} is no path: {error}", path.display())))
}
