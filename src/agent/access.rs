//! The users who may read the cache and the generations, from `[cache] access`.

use crate::config::CacheAccess;
use crate::deploy::{GUEST_GROUP, GuestGroupError, guest_group};
use crate::durable::Access;

/// Error if the configuration asks for access by a group that the agent cannot give files to.
#[derive(Debug, thiserror::Error)]
#[error(
    "[cache] access = \"group\": {0}: create the group and add the agent's user to it (by systemd-sysusers with the \
     package's files, or by \"groupadd --system {GUEST_GROUP}\" and \"usermod --append --groups {GUEST_GROUP} \
     eci-agent\"), and start the agent again"
)]
pub struct AccessError(#[from] GuestGroupError);

/// Resolves the setting; the group is looked up now.
pub(super) fn resolve(setting: CacheAccess) -> Result<Access, AccessError> {
    match setting {
        CacheAccess::Everyone => Ok(Access::default()),
        CacheAccess::Group => Ok(Access::group(guest_group()?)),
    }
}
