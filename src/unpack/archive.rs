//! Archives for the tests of this layer.

use tar::{Builder, Header};

/// A tar of regular files.
pub(super) fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A record of a pax extended header.
pub(super) fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let content = key.len() + value.len() + 3;
    // The length counts its own digits.
    let length = (1..20).map(|digits| content + digits).find(|length| content + length.to_string().len() == *length);
    [length.unwrap().to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// An entry as it stands.
pub(super) fn entry(name: &[u8], kind: u8, link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(content.len() as u64);
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_cksum();
    let padding = content.len().next_multiple_of(512) - content.len();
    [header.as_bytes(), content, &vec![0; padding]].concat()
}

/// A skippable frame of zstd, of the kind `kind` from 0 to 15.
pub(super) fn skippable(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    [&[0x50 | kind, 0x2a, 0x4d, 0x18][..], &length.to_le_bytes(), content].concat()
}
