//! Strings without their quotes, the most common mistake in a TOML file.

use toml::Value;

/// A value that would be a string if it had quotes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unquoted {
    /// Offset of the value, in bytes.
    pub(super) offset: usize,
    /// The key that the value is of.
    pub(super) key: String,
    /// The message. The value is not repeated: it may hold a password.
    pub(super) message: String,
}

/// The string without quotes that `error` comes from, if it does; `key` is the dotted key of the error, empty for an
/// error of the syntax.
pub(super) fn unquoted(text: &str, error: &toml::de::Error, key: &str) -> Option<Unquoted> {
    let offset = error.span()?.start;
    let wanted = error.message().strip_prefix("invalid type:").and_then(|message| message.split_once("expected"));
    let wants_string = wanted.is_some_and(|(_, wanted)| wanted.contains("string"));
    if wants_string && error.span().and_then(|span| text.get(span)).is_some_and(is_scalar) {
        let name = key.rsplit('.').next().unwrap_or_default();
        return Some(Unquoted { offset, key: key.to_owned(), message: advice(name) });
    }
    if error.message().starts_with("invalid type:") || !key.is_empty() {
        return None;
    }
    let start = text.get(..offset)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text.get(start..)?.lines().next()?;
    let (name, rest) = line.split_once('=')?;
    let value = rest.split(" #").next().unwrap_or_default().trim();
    let (name, is_list) = (name.trim(), value.starts_with('['));
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-\"' ".contains(c);
    if name.is_empty() || !name.chars().all(is_name) || value.is_empty() {
        return None;
    }
    // Quoted, it is a value of TOML; as it stands, it is none.
    let quoted = if is_list { quoted_items(value)? } else { quoted(value)? };
    if is_value(value) || !is_value(&quoted) {
        return None;
    }
    let indent = rest.len() - rest.trim_start().len();
    let offset = start + (line.len() - rest.len()) + indent;
    let message = if is_list { format!("put each value in quotes: {name} = [\"…\"]") } else { advice(name) };
    Some(Unquoted { offset, key: name.to_owned(), message })
}

/// True for a value that is neither a list nor a table, as it stands in the file.
fn is_scalar(value: &str) -> bool {
    !value.starts_with(['[', '{']) && is_value(value)
}

/// True if `value` is one of TOML.
fn is_value(value: &str) -> bool {
    format!("value = {value}").parse::<toml::Table>().is_ok()
}

fn advice(key: &str) -> String {
    format!("put the value in quotes: {key} = \"…\"")
}

/// The value in quotes; none if it has some already.
fn quoted(value: &str) -> Option<String> {
    let has_syntax = value.contains(['"', '\'', '\\']) || value.starts_with('{');
    (!has_syntax).then(|| Value::from(value).to_string())
}

/// A list on one line with each item in quotes that has none.
fn quoted_items(list: &str) -> Option<String> {
    let items = list.strip_prefix('[')?.strip_suffix(']')?;
    let items = items.split(',').map(str::trim).filter(|item| !item.is_empty());
    let items: Vec<_> = items.map(|item| quoted(item).unwrap_or_else(|| item.to_owned())).collect();
    Some(format!("[{}]", items.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde::Deserialize;

    use crate::config::parse;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    #[allow(dead_code, reason = "only the parsing is looked at")]
    struct File {
        image: String,
        poll: String,
        count: u8,
        names: Vec<String>,
        table: Option<Table>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the parsing is looked at")]
    struct Table {
        image: String,
    }

    fn error(text: &str) -> String {
        parse::<File>(Path::new("f.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_string_without_quotes_is_told() {
        for (text, expected) in [
            ("image = 127.0.0.1:5100/x\n", "f.toml:1:9: image: put the value in quotes: image = \"…\""),
            ("image = registry.example.com/x:1\n", "f.toml:1:9: image: put the value in quotes: image = \"…\""),
            ("\nimage=a.example/x:1 # the image\n", "f.toml:2:7: image: put the value in quotes: image = \"…\""),
            ("image = latest\n", "f.toml:1:9: image: put the value in quotes: image = \"…\""),
            ("image = oci:/media/usb:v1", "f.toml:1:9: image: put the value in quotes: image = \"…\""),
            ("image = /media/usb\n", "f.toml:1:9: image: put the value in quotes: image = \"…\""),
            ("poll = 5m\n", "f.toml:1:8: poll: put the value in quotes: poll = \"…\""),
            ("poll = 1h 30m\n", "f.toml:1:8: poll: put the value in quotes: poll = \"…\""),
            ("poll = 4MiB/s\n", "f.toml:1:8: poll: put the value in quotes: poll = \"…\""),
            ("poll = 0660\n", "f.toml:1:8: poll: put the value in quotes: poll = \"…\""),
            ("poll = 00:00\n", "f.toml:1:8: poll: put the value in quotes: poll = \"…\""),
            ("poll = off\n", "f.toml:1:8: poll: put the value in quotes: poll = \"…\""),
            // These are values of TOML, but no strings.
            ("poll = 5\n", "f.toml:1:8: poll: put the value in quotes: poll = \"…\""),
            ("poll = 1.4\n", "f.toml:1:8: poll: put the value in quotes: poll = \"…\""),
            ("poll = true\n", "f.toml:1:8: poll: put the value in quotes: poll = \"…\""),
            ("[table]\nimage = 3\n", "f.toml:2:9: table.image: put the value in quotes: image = \"…\""),
            ("names = [mon, \"tue\"]\n", "f.toml:1:9: names: put each value in quotes: names = [\"…\"]"),
        ] {
            assert_eq!(error(text), expected, "{text:?}");
        }
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        for text in [
            "image = \"a.example/x",
            "image = 'a.example/x",
            "image = a\"b\"\n",
            "image =\n",
            "image\n",
            "[table\n",
            "count = \"x\"\n",
            "count = 300\n",
            "image = []\n",
            "image = {}\n",
            "[image]\nx = 1\n",
            "image.x = 1\n",
            "imge = \"x\"\n",
            "names = [\"a\", \"b\"\n",
        ] {
            assert!(!error(text).contains("quotes: "), "{text:?}: {}", error(text));
        }
        let said = error("image = http://user:s3cret@a.example/x\n");
        assert!(said.contains("put the value in quotes") && !said.contains("s3cret"), "{said}");
    }
}
