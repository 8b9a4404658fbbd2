//! The host of a decoder: the process that started it. The host limits the memory of all decoders together, and ends
//! one that it no longer hears from.

use std::io;
use std::rc::Rc;

use super::Limits;
use super::memory::check_capacity;

/// Requests of a decoder to its host.
pub(super) trait Host {
    /// Tells the host that the decoder makes progress. Fails if the host no longer waits.
    fn report_alive(&self) -> io::Result<()>;

    /// Waits until the host grants `bytes` of memory, in place of what it granted before. Free that memory first.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
}

/// A host that several readers share.
pub(super) type SharedHost = Rc<dyn Host>;

/// Reserves memory for a decompressor, unless it is more than all decompression may use.
pub(super) fn reserve(host: &dyn Host, bytes: u64, limits: Limits) -> io::Result<()> {
    check_capacity(bytes, limits.memory)?;
    host.reserve(bytes)
}

/// Hosts for tests.
#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::cell::RefCell;

    /// A host that grants everything, and remembers it.
    #[derive(Default)]
    pub(in super::super) struct Granting(pub(in super::super) RefCell<Vec<u64>>);

    impl Host for Granting {
        fn report_alive(&self) -> io::Result<()> {
            Ok(())
        }

        fn reserve(&self, bytes: u64) -> io::Result<()> {
            self.0.borrow_mut().push(bytes);
            Ok(())
        }
    }
}
