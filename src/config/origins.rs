//! Places in the configuration files at which keys are set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::document::position;

/// The place of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// The last place of each key, by its path.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(BTreeMap<Vec<String>, Origin>);

impl Origins {
    /// Adds the keys of a file, in place of earlier files' keys of the same path.
    pub(super) fn add(&mut self, file: &Path, text: &str) {
        let (root, _) = DeTable::parse_recoverable(text);
        self.add_table(file, text, root.get_ref(), &mut Vec::new());
    }

    fn add_table(&mut self, file: &Path, text: &str, table: &DeTable<'_>, path: &mut Vec<String>) {
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            if let DeValue::Table(table) = value.get_ref() {
                let (line, column) = position(text, key.span().start);
                self.0.insert(path.clone(), Origin { file: file.to_owned(), line, column });
                self.add_table(file, text, table, path);
            } else {
                let (line, column) = position(text, value.span().start);
                self.0.insert(path.clone(), Origin { file: file.to_owned(), line, column });
            }
            path.pop();
        }
    }

    /// The place of the key at `path`.
    pub(super) fn get(&self, path: &[String]) -> Option<&Origin> {
        self.0.get(path)
    }

    /// The place of a dotted key without quotes, if `file` sets it.
    pub(super) fn in_file(&self, file: &Path, key: &str) -> Option<&Origin> {
        let path: Vec<_> = key.split('.').map(str::to_owned).collect();
        self.get(&path).filter(|origin| origin.file == file)
    }
}
