//! Check of the mounts below a state directory, before anything is fetched.

use std::path::Path;

use crate::cache::Cache;
use crate::durable::FileSystemError;

/// Refuses a state directory whose files cannot be renamed into place, and warns if they cannot be hard-linked. Call once
/// its directories exist.
pub(super) fn check_mounts(cache: &Cache, state_dir: &Path) -> Result<(), FileSystemError> {
    cache.check_file_system()?;
    let generations = state_dir.join("generations");
    if !cache.shares_with(&generations) {
        tracing::warn!(
            cache = %cache.root().display(), generations = %generations.display(),
            "files cannot be linked from one to the other: they are copied, and an image takes its room twice"
        );
    }
    Ok(())
}
