//! Attributes of a tar entry that stand before its header: records of pax extended headers, and GNU tar's long names.

use std::collections::BTreeMap;

use super::pax::{PaxError, decimal, pax_records};

/// The keywords that count here.
const PATH: &[u8] = b"path";
const LINK: &[u8] = b"linkpath";
const SIZE: &[u8] = b"size";
/// The path of a sparse file; its other path is a placeholder for programs that do not know sparse files.
const SPARSE_PATH: &[u8] = b"GNU.sparse.name";
const SPARSE: &[u8] = b"GNU.sparse.";

/// Values by their keywords; an empty one takes away what a global header says (POSIX.1-2017, pax, "pax Extended Header").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(BTreeMap<&'static [u8], Vec<u8>>);

impl Attributes {
    /// Adds the records of an extended header. The last of a keyword counts.
    pub(super) fn add(&mut self, header: &[u8]) -> Result<(), PaxError> {
        for record in pax_records(header) {
            let record = record?;
            if let Some(key) = [PATH, LINK, SIZE, SPARSE_PATH].into_iter().find(|key| *key == record.key) {
                self.0.insert(key, record.value.to_vec());
            }
            if record.key.starts_with(SPARSE) {
                self.0.insert(SPARSE, b"1".to_vec());
            }
        }
        Ok(())
    }

    /// Sets the path from GNU tar's long name.
    pub(super) fn set_path(&mut self, name: &[u8]) {
        self.0.insert(PATH, text(name));
    }

    /// Sets the target of a link from GNU tar's long name.
    pub(super) fn set_link(&mut self, name: &[u8]) {
        self.0.insert(LINK, text(name));
    }

    /// These attributes, completed by those of a global header.
    pub(super) fn over(self, global: &Self) -> Self {
        let mut all = global.clone();
        all.0.extend(self.0);
        all
    }

    /// The path.
    pub(super) fn path(&self) -> Option<String> {
        self.value(SPARSE_PATH).or_else(|| self.value(PATH)).map(lossy)
    }

    /// The target of a link.
    pub(super) fn link(&self) -> Option<String> {
        self.value(LINK).map(lossy)
    }

    /// Length of the content in bytes.
    pub(super) fn size(&self) -> Result<Option<u64>, PaxError> {
        self.value(SIZE).map(|size| decimal(size).ok_or(PaxError::Size)).transpose()
    }

    /// True if the file is sparse.
    pub(super) fn is_sparse(&self) -> bool {
        self.value(SPARSE).is_some()
    }

    /// Length of the longest value, in bytes.
    pub(super) fn longest(&self) -> usize {
        self.0.values().map(Vec::len).max().unwrap_or(0)
    }

    fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice).filter(|value| !value.is_empty())
    }
}

/// Text up to the first NUL.
fn text(name: &[u8]) -> Vec<u8> {
    name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::archive::pax_record;
    use super::*;

    fn attributes(records: &[(&str, &str)]) -> Attributes {
        let mut attributes = Attributes::default();
        let header: Vec<u8> =
            records.iter().flat_map(|(key, value)| pax_record(key.as_bytes(), value.as_bytes())).collect();
        attributes.add(&header).unwrap();
        attributes
    }

    #[test]
    fn the_last_record_of_a_keyword_counts() {
        let found = attributes(&[("path", "a"), ("size", "x"), ("hdrcharset", "BINARY"), ("path", "b"), ("size", "7")]);
        assert_eq!((found.path().as_deref(), found.size()), (Some("b"), Ok(Some(7))));
        assert_eq!(attributes(&[("path", "a"), ("path", "")]).path(), None, "an empty one removes it");
    }

    #[test]
    fn an_entry_overrides_the_global_header() {
        let global = attributes(&[("path", "a"), ("linkpath", "l"), ("size", "1")]);
        let all = attributes(&[("path", "b"), ("size", "")]).over(&global);
        assert_eq!((all.path().as_deref(), all.link().as_deref(), all.size()), (Some("b"), Some("l"), Ok(None)));
    }

    #[test]
    fn sizes_that_are_not_numbers_are_damage() {
        for size in ["-1", "+1", " 1", "1.5", "0x1", "18446744073709551616"] {
            assert_eq!(attributes(&[("size", size)]).size(), Err(PaxError::Size), "{size}");
        }
        assert_eq!(attributes(&[("size", "18446744073709551615")]).size(), Ok(Some(u64::MAX)));
    }
}
