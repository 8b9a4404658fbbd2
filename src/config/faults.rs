//! All errors of one TOML file, where reading it stops at the first.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::de::{DeTable, DeValue};

use super::DocumentError;
use super::document::fault;

/// Errors of one file that are looked for.
const MAX_FAULTS: usize = 50;

/// The errors of `text`, which came from `file`: those of its syntax, else those of its keys and values. A key that is
/// wrong is left out to find the next one.
pub(super) fn faults<T: DeserializeOwned>(file: &Path, text: &str) -> Vec<DocumentError> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return errors.iter().take(MAX_FAULTS).map(|error| fault(file, text, error, "")).collect();
    }
    let (span, mut root, mut found) = (root.span(), root.into_inner(), Vec::new());
    while found.len() < MAX_FAULTS {
        let rest = toml::Spanned::new(span.clone(), root.clone());
        let Err(error) = serde_path_to_error::deserialize::<_, T>(toml::Deserializer::from(rest)) else { break };
        let path = error.path().to_string();
        let key = if path == "." { String::new() } else { path };
        found.push(fault(file, text, error.inner(), &key));
        let mut keys: Vec<_> = error
            .path()
            .iter()
            .map_while(|segment| match segment {
                Segment::Map { key } | Segment::Enum { variant: key } => Some(key.as_str()),
                Segment::Seq { .. } | Segment::Unknown => None,
            })
            .collect();
        // An unknown key's path may stop at the table that holds it; its span is the key itself.
        let at = error.inner().span().and_then(|span| text.get(span)).unwrap_or_default().trim_matches(['"', '\'']);
        if error.inner().message().starts_with("unknown field") && keys.last() != Some(&at) {
            keys.push(at);
        }
        if !remove(&mut root, &keys) {
            break;
        }
    }
    found.sort_by_key(|fault| (fault.line, fault.column));
    found
}

/// Removes what is at the path `keys`; false if nothing is.
fn remove(table: &mut DeTable<'_>, keys: &[&str]) -> bool {
    let Some((first, rest)) = keys.split_first() else { return false };
    if rest.is_empty() {
        return table.remove(*first).is_some();
    }
    let found = table.iter_mut().find(|(key, _)| key.get_ref() == first);
    found.is_some_and(|(_, value)| match value.get_mut() {
        DeValue::Table(table) => remove(table, rest),
        _ => false,
    })
}
