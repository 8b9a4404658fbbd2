//! The other end of a connection, and the rights that it has.

use std::io;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist, getuid};
use tokio::net::UnixStream;

use super::Problem;
use super::peer_groups::peer_groups;
use crate::blocking;
use crate::failure::Kind;

/// Who may change things: root, the agent's own user, and a group.
#[derive(Clone, Debug)]
pub(super) struct Rights {
    own: Uid,
    group: Gid,
    /// The group's name, or its number.
    group_name: String,
}

/// The process at the other end of a connection, as it was when it connected.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    uid: Uid,
    gid: Gid,
    /// None if the kernel does not tell them.
    supplementary: Option<Vec<Gid>>,
}

impl Rights {
    /// Rights for the members of `group`.
    pub(super) fn new(group: Gid) -> Self {
        let known = Group::from_gid(group).ok().flatten();
        let group_name = known.map_or_else(|| group.to_string(), |group| group.name);
        Self { own: getuid(), group, group_name }
    }

    /// Refuses a peer that may only read.
    pub(super) async fn check(&self, peer: &Peer) -> Result<(), Problem> {
        if peer.uid.is_root() || peer.uid == self.own || peer.gid == self.group {
            return Ok(());
        }
        let (uid, group) = (peer.uid, self.group);
        let is_member = match &peer.supplementary {
            Some(groups) => groups.contains(&group),
            // The user database may be a slow server.
            None => blocking::run(move || is_in_database(uid, group)).await,
        };
        if is_member {
            return Ok(());
        }
        let detail = format!("uid {uid} may read only: changes are for root and the group {}", self.group_name);
        Err(Problem::new(Kind::Forbidden, detail))
    }
}

impl Peer {
    /// The peer of a connected socket.
    pub(super) fn of(socket: &UnixStream) -> io::Result<Self> {
        let credentials = socket.peer_cred()?;
        let (uid, gid) = (Uid::from_raw(credentials.uid()), Gid::from_raw(credentials.gid()));
        Ok(Self { uid, gid, supplementary: peer_groups(socket) })
    }

    /// The user.
    pub(super) fn uid(&self) -> Uid {
        self.uid
    }
}

/// The user database has the user in the group.
fn is_in_database(uid: Uid, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(uid) else { return false };
    let Ok(name) = std::ffi::CString::new(user.name) else { return false };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_are_for_root_the_agent_and_the_group() {
        let rights = Rights { own: Uid::from_raw(990), group: Gid::from_raw(991), group_name: "agents".to_owned() };
        let check = async |uid, gid, supplementary: Option<&[u32]>| {
            let supplementary = supplementary.map(|groups| groups.iter().copied().map(Gid::from_raw).collect());
            rights.check(&Peer { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), supplementary }).await
        };
        assert!(check(0, 0, None).await.is_ok());
        assert!(check(990, 5, None).await.is_ok());
        assert!(check(54321, 991, Some(&[])).await.is_ok());
        assert!(check(54321, 5, Some(&[1, 991])).await.is_ok());
        for groups in [None, Some(&[][..]), Some(&[990, 54321])] {
            let refused = check(54321, 54321, groups).await.unwrap_err();
            assert_eq!((refused.status, refused.kind), (403, Kind::Forbidden));
        }
    }
}
