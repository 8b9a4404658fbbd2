//! Disks that are what their types say, as far as their first and last bytes go.

use super::archive::tar;

/// A small disk of a type, with `label` in it.
pub fn disk(kind: &str, label: &str) -> Vec<u8> {
    let label = format!("a disk of type {kind}: {label}");
    let begins = |magic: &[u8]| [magic, &[0; 504], label.as_bytes()].concat();
    match kind {
        "qcow" => begins(b"QFI\xfb\0\0\0\x01"),
        "qcow2" => begins(b"QFI\xfb\0\0\0\x03"),
        "vmdk" => begins(b"KDMV\x01\0\0\0"),
        "vhdx" => begins(b"vhdxfile"),
        "vhd" => begins(b"conectix"),
        "fixed-vhd" => [label.as_bytes(), &[0; 1024], b"conectix", &[0; 504]].concat(),
        "iso" => {
            let mut bytes = label.into_bytes();
            bytes.resize(40_000, 0);
            bytes[32_769..32_774].copy_from_slice(b"CD001");
            bytes
        }
        "ova" => tar(&[("a.ovf", label.as_bytes()), ("a.vmdk", &begins(b"KDMV\x01\0\0\0"))]),
        _ => label.into_bytes(),
    }
}
