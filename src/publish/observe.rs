//! Who is told how far a push or a pull is.

use std::sync::Arc;

use crate::transfer::Progress;

/// Told of what is moved, one thing after another: each blob of a push, the image of a pull.
pub trait Observer: Send + Sync {
    /// What is called `name` begins to move; `progress` tells how far it is.
    fn begin(&self, name: &str, progress: &Arc<Progress>);
    /// It has ended, well or not.
    fn end(&self);
}

/// Nobody is told.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Observer for Silent {
    fn begin(&self, _name: &str, _progress: &Arc<Progress>) {}
    fn end(&self) {}
}
