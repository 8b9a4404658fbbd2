//! The ways to make something survive a power cut. Whatever matters on disk goes through here.
//!
//! All functions block; callers in async code run them on the blocking pool. Each returns only once what it did is
//! on stable storage, except where its text says otherwise.

mod beneath;
mod error;
mod fault;
mod file;
mod holes;
mod lock;
mod lock_file;
mod ownership;
mod permission;
mod share;
mod suitability;
mod symlink;
mod unsupported;

pub use beneath::check_no_links;
pub use error::{DurableError, IoContext};
pub use file::{
    create_dir, create_file, create_user_dir, entries, make_file, open_file, private_dir, read_capped, remove_any,
    remove_dir, remove_dir_all, remove_file, rename, replace_with, scratch_dir, set_aside, set_group, set_len,
    set_mode, sweep_temporaries, sync_data, sync_dir, sync_file, write_at, write_atomic, write_new,
};
pub use holes::{punch, write_sparse};
pub use lock::{DirLock, LockError, lock_dir, remove_locked_dir};
pub use ownership::{is_mount_point, new_file_mode, replace_content, replace_secret};
pub use permission::{Access, Permission, repair_permissions};
pub use share::{copy, link, share, share_over, shares_copies};
pub use suitability::{FileSystemError, check_rename, check_state_dir, has_hard_links};
pub use symlink::{create_link, followed, read_link, remove_link, swap_link, swap_links};
