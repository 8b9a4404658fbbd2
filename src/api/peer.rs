//! Who is at the other end of a connection, and what they may do.

use nix::unistd::{Gid, Group, Uid, User, getgrouplist, getuid};
use tokio::net::unix::UCred;

use super::Problem;
use crate::failure::Kind;

/// Who may change things: root, the agent's own user, and a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights {
    own: Uid,
    group: Gid,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    uid: Uid,
    gid: Gid,
}

impl Rights {
    /// Rights for the members of `group`.
    pub(super) fn new(group: Gid) -> Self {
        Self { own: getuid(), group }
    }

    /// Refuses a peer that may only read.
    pub(super) fn check(self, peer: Peer) -> Result<(), Problem> {
        if peer.uid.is_root() || peer.uid == self.own || peer.is_in(self.group) {
            return Ok(());
        }
        let group =
            Group::from_gid(self.group).ok().flatten().map_or_else(|| self.group.to_string(), |group| group.name);
        Err(Problem::new(
            Kind::Forbidden,
            format!("uid {} may read only: changes are for root and the group {group}", peer.uid),
        ))
    }
}

impl Peer {
    pub(super) fn new(credentials: UCred) -> Self {
        Self { uid: Uid::from_raw(credentials.uid()), gid: Gid::from_raw(credentials.gid()) }
    }

    /// Whether the group is the peer's own or one that the user database gives it. The kernel tells the own one only.
    fn is_in(self, group: Gid) -> bool {
        if self.gid == group {
            return true;
        }
        let Ok(Some(user)) = User::from_uid(self.uid) else { return false };
        let Ok(name) = std::ffi::CString::new(user.name) else { return false };
        getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_for_root_the_agent_and_the_group() {
        let rights = Rights { own: Uid::from_raw(990), group: Gid::from_raw(991) };
        let peer = |uid, gid| Peer { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) };
        assert!(rights.check(peer(0, 0)).is_ok());
        assert!(rights.check(peer(990, 5)).is_ok());
        assert!(rights.check(peer(54321, 991)).is_ok());
        let refused = rights.check(peer(54321, 54321)).unwrap_err();
        assert_eq!((refused.status, refused.kind), (403, Kind::Forbidden));
    }
}
