//! The socket: passed by systemd, or bound by ourselves.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Group, getgid};
use tokio::net::UnixListener;

use super::peer::Rights;
use crate::config::ApiSettings;
use crate::failure::{Classify, Kind, Retry};

/// Variable that tells a process started by a service manager to say when it is ready.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The socket, and who may change things through it.
pub struct Listener {
    pub(super) socket: UnixListener,
    pub(super) rights: Rights,
    /// What to remove at the end; none where systemd owns it.
    own: Option<Name>,
}

/// A name in a file system and the socket that it led to when it was made.
struct Name {
    path: PathBuf,
    /// Device and inode.
    node: (u64, u64),
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// It cannot be bound.
    #[error("cannot bind the socket {}", .path.display())]
    Bind {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The service manager passes no socket, and the service may not bind one by itself.
    #[error(
        "cannot bind the socket {}: its socket unit is to pass it: systemctl enable --now eci-agent.socket (if it is \
         masked, systemctl unmask eci-agent.socket first)",
        .path.display()
    )]
    NotPassed {
        /// Path at which it should be.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// What the service manager passed (`$LISTEN_FDS`) is not what it should pass.
    #[error("cannot take over the socket that the service manager passes")]
    Passed(#[source] io::Error),
}

impl Classify for ListenError {
    fn kind(&self) -> Kind {
        match self {
            Self::Passed(_) | Self::NotPassed { .. } => Kind::ConfigInvalid,
            Self::Bind { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Kind::Forbidden,
                io::ErrorKind::AddrInUse => Kind::Locked,
                io::ErrorKind::AlreadyExists => Kind::ConfigInvalid,
                io::ErrorKind::ReadOnlyFilesystem => Kind::ReadOnly,
                _ => Kind::Io,
            },
        }
    }

    fn retry(&self) -> Retry {
        Retry::Later
    }
}

impl Listener {
    /// Takes the socket that systemd passes, else binds the one that `settings` name. Within a tokio runtime.
    pub fn open(settings: &ApiSettings) -> Result<Self, ListenError> {
        let group = group(&settings.group);
        let rights = Rights::new(group);
        if let Some(socket) = passed().map_err(ListenError::Passed)? {
            return Ok(Self { socket, rights, own: None });
        }
        let is_service = std::env::var_os(NOTIFY_SOCKET).is_some();
        let failed = |source| refused(settings.socket.clone(), source, is_service);
        let (socket, own) = bind(settings, group).map_err(failed)?;
        Ok(Self { socket, rights, own: Some(own) })
    }
}

/// Error of a bind that failed. `/run/eci-agent` belongs to root: a service that is denied it needs its socket unit.
fn refused(path: PathBuf, source: io::Error, is_service: bool) -> ListenError {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if is_service => {
            ListenError::NotPassed { path, source }
        }
        _ => ListenError::Bind { path, source },
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(name) = &self.own
            && fs::symlink_metadata(&name.path).is_ok_and(|found| (found.dev(), found.ino()) == name.node)
        {
            // A name that stays is removed by the next start.
            let _ = fs::remove_file(&name.path);
        }
    }
}

/// The one listening socket that the service manager passes, if it passes any.
fn passed() -> io::Result<Option<UnixListener>> {
    let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let mut passed = listenfd::ListenFd::from_env();
    if passed.len() > 1 {
        // Clients of one that nobody accepts from would wait for ever.
        return wrong("there are several, and one is wanted (one ListenStream=)");
    }
    let Some(socket) = passed.take_unix_listener(0)? else { return Ok(None) };
    // Accept=yes passes a connection in place of the socket. Whoever has a peer is one.
    let socket = UnixStream::from(OwnedFd::from(socket));
    if socket.peer_addr().is_ok() {
        return wrong("it is a connection: the socket unit must not say Accept=yes");
    }
    let socket = StdListener::from(OwnedFd::from(socket));
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket).map(Some)
}

fn bind(settings: &ApiSettings, group: Gid) -> io::Result<(UnixListener, Name)> {
    let path = &settings.socket;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    remove_stale(path)?;
    let socket = bind_private(path)?;
    if let Err(error) = std::os::unix::fs::chown(path, None, Some(group.as_raw())) {
        tracing::warn!(%error, group = settings.group, "the socket cannot be given to its group");
    }
    fs::set_permissions(path, fs::Permissions::from_mode(settings.mode))?;
    let found = fs::symlink_metadata(path)?;
    Ok((socket, Name { path: path.clone(), node: (found.dev(), found.ino()) }))
}

/// Binds a socket that nobody else may open yet, whatever the umask: who connects before it has its group and mode
/// would be let in, and stay. The umask is that of the whole process, which does nothing else at this point.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let before = umask(Mode::from_bits_truncate(0o077));
    let socket = UnixListener::bind(path);
    umask(before);
    socket
}

/// Removes a socket that nobody listens on any more. One that answers belongs to a living process, and what is no
/// socket is not ours to remove.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something else of that name"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The group of that name, else the agent's own.
fn group(name: &str) -> Gid {
    if let Ok(Some(group)) = Group::from_name(name) {
        return group.gid;
    }
    tracing::warn!(group = name, "there is no such group; the agent's own group has the socket");
    getgid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path) -> ApiSettings {
        ApiSettings { socket: dir.join("agent.sock"), mode: 0o660, group: "no such group".to_owned() }
    }

    #[tokio::test]
    async fn nobody_else_may_open_a_socket_before_it_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let mode = || fs::metadata(&settings.socket).unwrap().permissions().mode() & 0o7777;
        let private = bind_private(&settings.socket).unwrap();
        assert_eq!(mode() & 0o077, 0);
        drop(private);
        let listener = Listener::open(&settings).unwrap();
        assert_eq!(mode(), 0o660);
        drop(listener);
        assert!(!settings.socket.exists());
    }

    #[test]
    fn a_service_that_may_not_bind_names_its_socket_unit() {
        let refused = |source: io::Error, is_service| refused("/run/x.sock".into(), source, is_service);
        for denied in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
            let error = refused(denied.into(), true);
            assert_eq!((error.kind(), error.kind().exit_code()), (Kind::ConfigInvalid, 78));
            assert!(error.to_string().contains("systemctl enable --now eci-agent.socket"), "{error}");
            let by_hand = refused(denied.into(), false);
            assert!(matches!(by_hand, ListenError::Bind { .. }) && by_hand.kind() != Kind::ConfigInvalid);
        }
        assert_eq!(refused(io::ErrorKind::AddrInUse.into(), true).kind(), Kind::Locked);
    }

    #[tokio::test]
    async fn only_an_own_socket_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let first = Listener::open(&settings).unwrap();
        assert_eq!(Listener::open(&settings).err().unwrap().kind(), Kind::Locked, "it is in use");
        fs::remove_file(&settings.socket).unwrap();
        let second = Listener::open(&settings).unwrap();
        drop(first);
        assert!(settings.socket.exists(), "it is another's by now");
        drop(second);

        fs::write(&settings.socket, "precious").unwrap();
        assert_eq!(Listener::open(&settings).err().unwrap().kind(), Kind::ConfigInvalid);
        assert_eq!(fs::read_to_string(&settings.socket).unwrap(), "precious");
    }
}
