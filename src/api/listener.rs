//! The socket: passed by systemd, or bound by ourselves.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, getgid};
use tokio::net::UnixListener;

use super::peer::Rights;
use crate::config::ApiSettings;
use crate::failure::{Classify, Kind, Retry};

/// The socket, and who may change things through it.
pub struct Listener {
    pub(super) socket: UnixListener,
    pub(super) rights: Rights,
    /// The path to remove at the end; none where systemd owns it.
    own_path: Option<PathBuf>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} the socket {}", .path.display())]
pub struct ListenError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Classify for ListenError {
    fn kind(&self) -> Kind {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => Kind::Forbidden,
            io::ErrorKind::AddrInUse => Kind::Locked,
            _ => Kind::Io,
        }
    }

    fn retry(&self) -> Retry {
        Retry::Later
    }
}

impl Listener {
    /// Takes the socket that systemd passes, else binds the one that `settings` name. Within a tokio runtime.
    pub fn open(settings: &ApiSettings) -> Result<Self, ListenError> {
        let failed = |operation| move |source| ListenError { operation, path: settings.socket.clone(), source };
        let group = group(&settings.group);
        let rights = Rights::new(group);
        let passed = listenfd::ListenFd::from_env().take_unix_listener(0).map_err(failed("take over"))?;
        if let Some(socket) = passed {
            socket.set_nonblocking(true).map_err(failed("prepare"))?;
            let socket = UnixListener::from_std(socket).map_err(failed("prepare"))?;
            return Ok(Self { socket, rights, own_path: None });
        }
        let socket = bind(settings, group).map_err(failed("bind"))?;
        Ok(Self { socket, rights, own_path: Some(settings.socket.clone()) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.own_path {
            // A path that stays is removed by the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind(settings: &ApiSettings, group: Gid) -> io::Result<UnixListener> {
    let path = &settings.socket;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    remove_stale(path)?;
    let socket = UnixListener::bind(path)?;
    // Between bind and here the umask decides; nothing is accepted before the mode is right.
    if let Err(error) = std::os::unix::fs::chown(path, None, Some(group.as_raw())) {
        tracing::warn!(%error, group = settings.group, "the socket cannot be given to its group");
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(settings.mode))?;
    Ok(socket)
}

/// Removes a socket that nobody listens on any more; one that answers belongs to a living process.
fn remove_stale(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The group of that name, else the agent's own.
fn group(name: &str) -> Gid {
    match Group::from_name(name) {
        Ok(Some(group)) => group.gid,
        _ => {
            tracing::warn!(group = name, "there is no such group; the agent's own group has the socket");
            getgid()
        }
    }
}
