//! Mounts below a state directory: those that the agent cannot work with are refused before anything is fetched.

use std::path::Path;

use crate::cache::Cache;
use crate::durable::FileSystemError;

/// Refuses directories that are mounted apart from one another. Call once they exist.
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
