//! The format of a disk image, told by its first and last bytes. No I/O.

use serde::{Deserialize, Serialize};

use super::{DiskFormat, TarHeader};

/// Bytes from the beginning of a disk that are looked at.
pub const DISK_HEAD_BYTES: usize = 64 * 1024;
/// Bytes from the end of a disk that are looked at.
pub const DISK_TAIL_BYTES: usize = 512;

const QCOW: &[u8] = b"QFI\xfb";
const VHDX: &[u8] = b"vhdxfile";
/// The cookie of a vhd's footer; a dynamic one has a copy of the footer at its beginning.
const VHD: &[u8] = b"conectix";
/// Magics of sparse extents, of `VMware`'s hosted products and of ESX.
const VMDK: [&[u8]; 2] = [b"KDMV", b"COWD"];
const VMDK_DESCRIPTOR: &[u8] = b"# disk descriptorfile";
/// Place of the first volume descriptor's identifier on an optical disc: after 16 sectors, and a byte.
const ISO_AT: usize = 16 * 2048 + 1;
/// Identifiers of ISO 9660, and of UDF alone.
const ISO: [&[u8]; 2] = [b"CD001", b"BEA01"];

/// The formats that a disk's first and last bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskHeader {
    /// The format whose magic the disk begins with; a hypervisor that detects formats would use it.
    leading: Option<DiskFormat>,
    /// Formats by other bytes: a vhd by its footer, an optical disc, an appliance.
    elsewhere: [Option<DiskFormat>; 3],
    is_empty: bool,
}

/// The occasion of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCheck {
    /// A push, where the user can correct the type.
    Push,
    /// A deployment or a pull. A raw disk that ends with the footer of a vhd is accepted.
    Pull,
}

/// A disk whose bytes contradict its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskMismatch {
    /// The bytes are those of another format.
    #[error("its format is said to be {declared}, and its bytes are those of {found}")]
    Other {
        /// The format that is named.
        declared: DiskFormat,
        /// The format that was found.
        found: DiskFormat,
    },
    /// The bytes are of no format that is known.
    #[error("its format is said to be {0}, and it has not the magic of one")]
    NoMagic(DiskFormat),
    /// The disk has no bytes.
    #[error("it is empty")]
    Empty,
}

impl DiskHeader {
    /// Reads the first bytes of a disk, up to [`DISK_HEAD_BYTES`], and its last, up to [`DISK_TAIL_BYTES`].
    pub fn read(head: &[u8], tail: &[u8]) -> Self {
        let at_iso = head.get(ISO_AT..).unwrap_or_default();
        // Early ones lack the footer's last byte.
        let is_vhd = tail.starts_with(VHD) || tail.get(1..).is_some_and(|tail| tail.starts_with(VHD));
        let is_iso = ISO.iter().any(|magic| at_iso.starts_with(magic));
        let is_tar = TarHeader::read(head).is_some();
        let elsewhere =
            [is_vhd.then_some(DiskFormat::Vhd), is_iso.then_some(DiskFormat::Iso), is_tar.then_some(DiskFormat::Ova)];
        Self { leading: leading(head), elsewhere, is_empty: head.is_empty() }
    }

    /// Refuses what contradicts `declared`. A raw disk may be an optical disc as well (a hybrid), or a tar.
    pub fn check(self, declared: DiskFormat, check: DiskCheck) -> Result<(), DiskMismatch> {
        let found = match (self.leading, declared) {
            (None, DiskFormat::Raw) if self.is_empty && check == DiskCheck::Push => return Err(DiskMismatch::Empty),
            (Some(found), _) if found == declared => return Ok(()),
            (Some(found), _) => Some(found),
            (None, DiskFormat::Raw) if self.has(DiskFormat::Vhd) && check == DiskCheck::Push => Some(DiskFormat::Vhd),
            (None, DiskFormat::Raw) => return Ok(()),
            (None, declared) if self.has(declared) => return Ok(()),
            (None, _) if self.is_empty => return Err(DiskMismatch::Empty),
            (None, _) => self.elsewhere.into_iter().flatten().next(),
        };
        Err(found.map_or(DiskMismatch::NoMagic(declared), |found| DiskMismatch::Other { declared, found }))
    }

    /// True if other bytes than the first are those of `format`.
    fn has(self, format: DiskFormat) -> bool {
        self.elsewhere.contains(&Some(format))
    }
}

/// The format whose magic the bytes begin with.
fn leading(head: &[u8]) -> Option<DiskFormat> {
    if head.starts_with(QCOW) {
        let is_first = head.get(4..8) == Some(&[0, 0, 0, 1]);
        Some(if is_first { DiskFormat::Qcow } else { DiskFormat::Qcow2 })
    } else if head.starts_with(VHDX) {
        Some(DiskFormat::Vhdx)
    } else if head.starts_with(VHD) {
        Some(DiskFormat::Vhd)
    } else if VMDK.iter().any(|magic| head.starts_with(magic)) || is_vmdk_descriptor(head) {
        Some(DiskFormat::Vmdk)
    } else {
        None
    }
}

/// True if the bytes are the text that names the extents of a vmdk: by its first line, or as QEMU does it, by the first
/// line that is neither empty nor a comment.
pub(super) fn is_vmdk_descriptor(head: &[u8]) -> bool {
    let begins = head.get(..VMDK_DESCRIPTOR.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(VMDK_DESCRIPTOR));
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
    begins || first.is_some_and(|line| matches!(line, b"version=1" | b"version=2" | b"version=3"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [DiskFormat; 8] = [
        DiskFormat::Raw,
        DiskFormat::Vhd,
        DiskFormat::Vmdk,
        DiskFormat::Iso,
        DiskFormat::Qcow,
        DiskFormat::Qcow2,
        DiskFormat::Ova,
        DiskFormat::Vhdx,
    ];

    fn header(bytes: &[u8]) -> DiskHeader {
        let (head, tail) = (bytes.len().min(DISK_HEAD_BYTES), bytes.len().saturating_sub(DISK_TAIL_BYTES));
        DiskHeader::read(&bytes[..head], &bytes[tail..])
    }

    fn beginning(magic: &[u8]) -> Vec<u8> {
        [magic, &vec![0; 70_000]].concat()
    }

    fn iso() -> Vec<u8> {
        let mut bytes = beginning(b"");
        bytes[ISO_AT..ISO_AT + 5].copy_from_slice(b"CD001");
        bytes
    }

    fn tar() -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path("a.ovf").unwrap();
        header.set_size(0);
        header.set_cksum();
        beginning(header.as_bytes())
    }

    /// Formats that bytes are taken for, at push and at pull.
    fn fits(bytes: &[u8]) -> [Vec<DiskFormat>; 2] {
        [DiskCheck::Push, DiskCheck::Pull]
            .map(|check| ALL.into_iter().filter(|format| header(bytes).check(*format, check).is_ok()).collect())
    }

    #[test]
    fn a_magic_fits_one_format_only() {
        for (format, magic) in [
            (DiskFormat::Qcow, &b"QFI\xfb\0\0\0\x01"[..]),
            (DiskFormat::Qcow2, b"QFI\xfb\0\0\0\x02"),
            (DiskFormat::Qcow2, b"QFI\xfb\0\0\0\x03"),
            (DiskFormat::Vmdk, b"KDMV\x01\0\0\0"),
            (DiskFormat::Vmdk, b"COWD\x01\0\0\0"),
            (DiskFormat::Vmdk, b"# Disk DescriptorFile\nversion=1\n"),
            (DiskFormat::Vmdk, b"# disk descriptorfile\r\n"),
            (DiskFormat::Vmdk, b"\n# a comment\r\n\nversion=3\r\nCID=1\n"),
            (DiskFormat::Vhdx, b"vhdxfile"),
            (DiskFormat::Vhd, b"conectix"),
        ] {
            assert_eq!(fits(&beginning(magic)), [vec![format], vec![format]], "{magic:?}");
            assert_eq!(fits(magic), [vec![format], vec![format]], "{magic:?} alone");
        }
    }

    #[test]
    fn a_raw_disk_may_be_an_optical_disc_or_a_tar() {
        let raw = [DiskFormat::Raw];
        assert_eq!(fits(&beginning(b"MZ")), [raw, raw]);
        let disc = [DiskFormat::Raw, DiskFormat::Iso];
        assert_eq!(fits(&iso()), [disc, disc]);
        let archive = [DiskFormat::Raw, DiskFormat::Ova];
        assert_eq!(fits(&tar()), [archive, archive]);
        let mut both = iso();
        both[..4].copy_from_slice(b"QFI\xfb");
        assert_eq!(fits(&both), [[DiskFormat::Qcow2], [DiskFormat::Qcow2]], "it is what it begins as");
    }

    #[test]
    fn a_fixed_vhd_is_detected_by_its_footer() {
        for cut in [0, 1] {
            let mut bytes = beginning(b"");
            bytes.extend_from_slice(b"conectix");
            bytes.resize(70_000 + 512 - cut, 0);
            let vhd = vec![DiskFormat::Vhd];
            assert_eq!(fits(&bytes), [vhd.clone(), vec![DiskFormat::Raw, DiskFormat::Vhd]], "{cut}");
        }
    }

    #[test]
    fn a_mismatch_names_both_formats() {
        let told = |bytes: &[u8], declared| header(bytes).check(declared, DiskCheck::Push).unwrap_err();
        let (declared, found) = (DiskFormat::Raw, DiskFormat::Qcow2);
        assert_eq!(told(b"QFI\xfb\0\0\0\x03", declared), DiskMismatch::Other { declared, found });
        let (declared, found) = (DiskFormat::Qcow2, DiskFormat::Iso);
        assert_eq!(told(&iso(), declared), DiskMismatch::Other { declared, found });
        assert_eq!(told(b"text", DiskFormat::Vmdk), DiskMismatch::NoMagic(DiskFormat::Vmdk));
        assert!(ALL.iter().all(|format| told(b"", *format) == DiskMismatch::Empty));
        assert_eq!(fits(b"")[1], [DiskFormat::Raw]);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_header(head in proptest::collection::vec(any::<u8>(), 0..600)) {
            let header = header(&head);
            prop_assert!(ALL.iter().filter(|format| header.check(**format, DiskCheck::Push).is_ok()).count() <= 2);
        }
    }
}
