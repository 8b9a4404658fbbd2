//! Supplementary groups of the process at the other end of a socket (`SO_PEERGROUPS`).

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::getsockopt;
use nix::unistd::Gid;
use nix::{getsockopt_impl, sockopt_impl};

/// Asks for a list of each length in turn. The kernel answers `ERANGE` until the length is that of the peer's list, so
/// that the first success has the whole list, and exactly that.
macro_rules! first_fitting {
    ($socket:expr, $($length:literal)*) => {{
        $({
            sockopt_impl!(PeerGroups, GetOnly, libc::SOL_SOCKET, libc::SO_PEERGROUPS, [libc::gid_t; $length]);
            match getsockopt($socket, PeerGroups) {
                Ok(groups) => return Some(groups.map(Gid::from_raw).to_vec()),
                Err(Errno::ERANGE) => {}
                Err(_) => return None,
            }
        })*
        None
    }};
}

/// Supplementary groups that the peer had when it connected. None if there are more than 64, or the kernel does not
/// tell them.
pub(super) fn peer_groups(socket: &impl AsFd) -> Option<Vec<Gid>> {
    first_fitting!(socket,
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32
        33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::getgroups;
    use std::os::unix::net::UnixStream;

    #[test]
    fn groups_are_those_of_the_process() {
        let (near, _far) = UnixStream::pair().unwrap();
        assert_eq!(peer_groups(&near), getgroups().ok(), "of this process, which is at both ends");
    }
}
