//! The group that hypervisors belong to.

use nix::unistd::{Gid, Group, getegid, geteuid, getgroups};

/// Name of the group that may write to the disks that guests write to, and lock lease files.
pub const GUEST_GROUP: &str = "eci-vm";

/// Reason why the agent cannot give files to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestGroupError {
    /// No such group exists.
    #[error("the group {GUEST_GROUP} does not exist")]
    Absent,
    /// The kernel lets only members of a group, and root, give files to it.
    #[error("the agent's user is not a member of the group {GUEST_GROUP}")]
    NotMember,
}

/// Finds the id of the group if this process can give files to it.
pub fn guest_group() -> Result<u32, GuestGroupError> {
    let group = Group::from_name(GUEST_GROUP).ok().flatten().ok_or(GuestGroupError::Absent)?;
    let is_own = |gid: Gid| gid == getegid() || getgroups().is_ok_and(|groups| groups.contains(&gid));
    if geteuid().is_root() || is_own(group.gid) { Ok(group.gid.as_raw()) } else { Err(GuestGroupError::NotMember) }
}
