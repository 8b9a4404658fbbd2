//! Cancellation of an unpacking, which blocks a thread, by the task that waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Flag that ends an unpacking. Cheap to clone; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// Sets the flag when it is dropped: hold it in the task that waits.
#[derive(Debug)]
pub struct CancelOnDrop(Cancel);

impl Cancel {
    /// Sets the flag.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True if the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Ties the flag to the life of the result.
    pub fn on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
