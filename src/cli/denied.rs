//! Advice for a user who may not open the agent's socket.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Group, User, geteuid, getgroups};

/// Permission bit: the group may write, and so connect.
const GROUP_MAY_CONNECT: u32 = 0o020;

/// The way to the rights that the socket's owner, group and mode give. A group is named only if membership is what lacks.
pub(super) fn access_advice(socket: &Path) -> String {
    let found = std::fs::metadata(socket).ok();
    let group = found.filter(|found| found.mode() & GROUP_MAY_CONNECT != 0).map(|found| Gid::from_raw(found.gid()));
    let is_in_force = |group: Gid| getgroups().is_ok_and(|groups| groups.contains(&group));
    let known = group.filter(|group| !is_in_force(*group)).and_then(|group| Group::from_gid(group).ok().flatten());
    let user = User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
    advice(known.map(|group| (group.name, group.mem)), user.as_deref())
}

/// The text for a group that may connect and that this process is not in, given its name and members.
fn advice(group: Option<(String, Vec<String>)>, user: Option<&str>) -> String {
    match group {
        Some((name, members)) if user.is_some_and(|user| members.iter().any(|member| member == user)) => {
            format!("use sudo, or log in again: the membership in group {name} counts from then on")
        }
        Some((name, _)) => format!("use sudo, or join group {name}"),
        None => "use sudo".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_named_if_membership_is_what_lacks() {
        let group = |members: &[&str]| {
            Some(("eci-agent".to_owned(), members.iter().map(|member| (*member).to_owned()).collect()))
        };
        assert_eq!(advice(group(&["other"]), Some("me")), "use sudo, or join group eci-agent");
        assert_eq!(advice(group(&[]), None), "use sudo, or join group eci-agent");
        assert!(advice(group(&["me"]), Some("me")).starts_with("use sudo, or log in again"));
        assert_eq!(advice(None, Some("me")), "use sudo");
    }

    #[test]
    fn a_socket_that_is_closed_to_its_group_names_none() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        assert_eq!(access_advice(&socket), "use sudo", "nothing can be seen of it");
        std::fs::write(&socket, "").unwrap();
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(access_advice(&socket), "use sudo");
        // The group of this process is no obstacle.
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o660)).unwrap();
        let own = Gid::from_raw(std::fs::metadata(&socket).unwrap().gid());
        let is_own = getgroups().unwrap().contains(&own);
        assert_eq!(access_advice(&socket) == "use sudo", is_own || Group::from_gid(own).unwrap().is_none());
    }
}
