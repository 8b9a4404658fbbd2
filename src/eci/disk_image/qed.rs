//! QEMU's qed, which is never a disk of an image: it can name a backing file, and a hypervisor that probes would follow it.

use super::UnsafeDisk;

pub(super) const MAGIC: &[u8] = b"QED\0";

pub(super) fn refusal() -> UnsafeDisk {
    UnsafeDisk::Unknown("the format qed".to_owned())
}
