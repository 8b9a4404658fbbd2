//! TOML texts, with errors that say where in the file and at which key.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::unquoted::{Unquoted, unquoted};

/// A text that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {}{message}", .file.display(), at(.key))]
pub struct DocumentError {
    /// The file that the text came from.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key that is wrong, dotted; empty where no key is at fault.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
}

fn at(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

/// Reads `text`, which came from `file`.
pub fn parse<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, DocumentError> {
    let deserializer = toml::Deserializer::parse(text).map_err(|error| fault(file, text, &error, ""))?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        let key = if path == "." { String::new() } else { path };
        fault(file, text, error.inner(), &key)
    })
}

/// The error of `text` at the key `key`; an empty one is none.
pub(super) fn fault(file: &Path, text: &str, error: &toml::de::Error, key: &str) -> DocumentError {
    let span = error.span().unwrap_or(0..0);
    let (line, column) = position(text, span.start);
    let is_unknown = error.message().starts_with("unknown field");
    let key = if is_unknown { unknown_key(key, text.get(span)) } else { key.to_owned() };
    let file = file.to_owned();
    match unquoted(text, error, &key) {
        Some(Unquoted { offset, key, message }) => {
            let (line, column) = position(text, offset);
            DocumentError { file, line, column, key, message }
        }
        None => DocumentError { file, line, column, key, message: error.message().trim().to_owned() },
    }
}

/// An unknown key's path may stop at the table that holds it; the span is the key itself.
fn unknown_key(path: &str, key: Option<&str>) -> String {
    // A quoted key's text has its quotes.
    let key = key.unwrap_or_default().trim_matches(['"', '\'']);
    match path {
        "" => key.to_owned(),
        path if path == key || path.ends_with(&format!(".{key}")) => path.to_owned(),
        path => format!("{path}.{key}"),
    }
}

/// Line and column of a byte, both from 1.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).map_or(0, |line| line.chars().count());
    (before.matches('\n').count() + 1, column + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the parsing is looked at")]
    struct Outer {
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the parsing is looked at")]
    struct Inner {
        number: u8,
    }

    fn error(text: &str) -> (usize, usize, String) {
        let error = parse::<Outer>(Path::new("f.toml"), text).unwrap_err();
        assert!(!error.message.is_empty());
        (error.line, error.column, error.key)
    }

    #[test]
    fn errors_name_line_column_and_key() {
        assert_eq!(error("\n[inner]\nnumber = \"x\"\n"), (3, 10, "inner.number".to_owned()));
        assert_eq!(error("[inner]\nnumber = 300\n"), (2, 10, "inner.number".to_owned()));
        assert_eq!(error("[inner]\nnumbr = 3\n"), (2, 1, "inner.numbr".to_owned()));
        assert_eq!(error("innr = 3\n"), (1, 1, "innr".to_owned()));
        assert_eq!(error("é = = 3\n").0, 1);
        assert_eq!(error("[inner]\n").2, "inner");
        assert_eq!(error("[inner\n").0, 1);
    }
}
