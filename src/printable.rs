//! Text from elsewhere, made safe to show.
//!
//! An image, a registry or a file can neither move the cursor of a terminal, nor forge or reorder a line, nor hide
//! characters in a name.

use std::borrow::Cow;
use std::fmt::Write as _;

/// True for a character that a terminal does not show as it is: a control character, a separator of lines or
/// paragraphs, or one that has no width or directs the writing (`Default_Ignorable_Code_Point` of Unicode's
/// `DerivedCoreProperties`).
pub fn is_unsafe_to_show(character: char) -> bool {
    let is_invisible = matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    is_invisible || character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

/// Replaces what is unsafe to show by U+FFFD, and tabs and line breaks by spaces.
pub fn one_line(text: &str) -> String {
    text.chars().map(one_line_char).collect()
}

/// One character of [`one_line`].
pub fn one_line_char(character: char) -> char {
    match character {
        '\n' | '\t' => ' ',
        other if is_unsafe_to_show(other) => char::REPLACEMENT_CHARACTER,
        other => other,
    }
}

/// Escapes what JSON and logs would pass on, as JSON does (`\u202e`): all that is unsafe to show but ASCII's control
/// characters. Those are escaped in JSON already, and elsewhere they are our own line ends and colours.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let is_escaped = |character: char| !character.is_ascii_control() && is_unsafe_to_show(character);
    let is_delete = |character: char| character == '\u{7f}';
    if !text.contains(|character| is_escaped(character) || is_delete(character)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_escaped(character) || is_delete(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Override, isolate, mark, zero width, joiner, soft hyphen, filler, byte order mark, tag, variation, C1, separators.
    const UNSAFE: &str =
        "\u{202e}\u{2066}\u{200f}\u{200b}\u{200d}\u{ad}\u{3164}\u{feff}\u{e0041}\u{fe0f}\u{9b}\u{2028}\u{2029}\u{85}";

    #[test]
    fn one_line_replaces_what_a_terminal_does_not_show() {
        assert!(one_line(UNSAFE).chars().all(|character| character == '\u{fffd}'));
        assert_eq!(one_line("a\u{1b}[31m\r\n\tb"), "a\u{fffd}[31m\u{fffd}  b");
    }

    #[test]
    fn ordinary_text_of_any_script_stays() {
        for text in ["café", "שלום", "日本語", "🖥", "a b"] {
            assert_eq!((one_line(text), escaped(text)), (text.to_owned(), text.into()));
        }
    }

    #[test]
    fn escaped_json_means_the_same() {
        let json = serde_json::to_string(UNSAFE).unwrap();
        let shown = escaped(&json);
        assert!(shown.is_ascii(), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), UNSAFE);
        assert_eq!(escaped("\u{1b}[31mred\n"), "\u{1b}[31mred\n");
        assert_eq!(escaped("a\u{7f}b\u{202e}"), "a\\u007fb\\u202e");
    }
}
