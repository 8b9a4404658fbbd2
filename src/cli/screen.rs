//! The output device of text for people: its width, its colours, its characters.

use std::borrow::Cow;
use std::io::IsTerminal;

use rustix::termios::tcgetwinsize;

/// The width of a terminal that does not know its own.
const USUAL_WIDTH: usize = 80;
/// A narrower width counts as this one: no line of ours fits below it.
const MIN_WIDTH: usize = 40;

/// The properties of the output device that a layout depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    /// Columns of a line; none: lines are as long as their text.
    pub(super) width: Option<usize>,
    /// True if colours are shown.
    pub(super) has_colour: bool,
    /// True if characters beyond ASCII are shown.
    pub(super) is_utf8: bool,
}

/// A colour of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    /// All is well.
    Green,
    /// Something waits or is under way.
    Yellow,
    /// Something is wrong.
    Red,
}

impl Screen {
    /// The screen that stdout is. `$COLUMNS` overrides its width; `$NO_COLOR` turns colours off.
    pub(super) fn of_stdout() -> Self {
        let out = std::io::stdout();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let columns = variable("COLUMNS").and_then(|text| text.parse::<usize>().ok()).filter(|columns| *columns > 0);
        let is_terminal = out.is_terminal();
        let own = || {
            let size = tcgetwinsize(&out).map_or(0, |size| usize::from(size.ws_col));
            is_terminal.then_some(if size == 0 { USUAL_WIDTH } else { size })
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable).unwrap_or_default();
        let is_dumb = variable("TERM").is_some_and(|terminal| terminal == "dumb");
        Self {
            width: columns.or_else(own).map(|width| width.max(MIN_WIDTH)),
            has_colour: is_terminal && !is_dumb && variable("NO_COLOR").is_none(),
            is_utf8: ["utf-8", "utf8"].iter().any(|name| locale.to_ascii_lowercase().contains(name)),
        }
    }

    /// Text with the characters that the screen has: without UTF-8, others are escaped as in JSON (`\u05e9`).
    pub(super) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.is_utf8 || text.is_ascii() {
            return Cow::Borrowed(text);
        }
        let mut ascii = String::with_capacity(text.len());
        for character in text.chars() {
            if character.is_ascii() {
                ascii.push(character);
            } else {
                ascii.extend(character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
        Cow::Owned(ascii)
    }

    /// Text of at most `width` characters, with its middle left out if it has more.
    pub(super) fn shorten(&self, text: &str, width: usize) -> String {
        let text = self.text(text);
        let gap = if self.is_utf8 { "\u{2026}" } else { "..." };
        let count = text.chars().count();
        let kept = width.saturating_sub(gap.chars().count());
        if count <= width {
            return text.into_owned();
        }
        let end = kept / 2;
        let start: String = text.chars().take(kept - end).collect();
        start + gap + &text.chars().skip(count - end).collect::<String>()
    }

    /// Appends a line to `out` that begins with `first`, or several if it is too long, the further ones with `indent`
    /// blanks. A word that is longer than a line is broken.
    pub(super) fn write(&self, out: &mut String, first: &str, text: &str, indent: usize, colour: Option<Colour>) {
        let text = self.text(text);
        let width = self.width.unwrap_or(usize::MAX);
        let mut line = self.text(first).into_owned();
        let mut is_empty = true;
        for word in text.split(' ') {
            let mut word: Vec<char> = word.chars().collect();
            let mut length = line.chars().count();
            if !is_empty && length + 1 + word.len() > width {
                self.finish(out, &line, colour);
                (line, length, is_empty) = (" ".repeat(indent), indent, true);
            }
            if !is_empty {
                line.push(' ');
                length += 1;
            }
            while length + word.len() > width && width > length {
                let rest = word.split_off(width - length);
                line.extend(word);
                self.finish(out, &line, colour);
                (line, length, word) = (" ".repeat(indent), indent, rest);
            }
            line.extend(word);
            is_empty = false;
        }
        self.finish(out, &line, colour);
    }

    fn finish(&self, out: &mut String, line: &str, colour: Option<Colour>) {
        out.push_str(&self.paint(line.trim_end(), colour));
        out.push('\n');
    }

    /// Text in a colour, on a screen that has colours.
    pub(super) fn paint(&self, text: &str, colour: Option<Colour>) -> String {
        let code = match colour.filter(|_| self.has_colour) {
            None => return text.to_owned(),
            Some(Colour::Green) => 32,
            Some(Colour::Yellow) => 33,
            Some(Colour::Red) => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Screen = Screen { width: Some(20), has_colour: false, is_utf8: true };

    #[test]
    fn text_is_shortened_in_the_middle() {
        assert_eq!(PLAIN.shorten("registry.example.com/nginx:1", 11), "regis\u{2026}inx:1");
        assert_eq!(Screen { is_utf8: false, ..PLAIN }.shorten("registry.example.com/nginx:1", 11), "regi...nx:1");
        assert_eq!(PLAIN.shorten("nginx:1", 7), "nginx:1");
    }

    #[test]
    fn lines_are_wrapped_with_an_indent_and_long_words_broken() {
        let wrapped = |screen: Screen, text: &str| {
            let mut out = String::new();
            screen.write(&mut out, "  ", text, 4, Some(Colour::Red));
            out
        };
        assert_eq!(wrapped(PLAIN, "one two three four five"), "  one two three four\n    five\n");
        assert_eq!(wrapped(PLAIN, &"x".repeat(40)).lines().map(str::len).collect::<Vec<_>>(), [20, 20, 10]);
        assert_eq!(wrapped(Screen { width: None, ..PLAIN }, &"one ".repeat(40)).lines().count(), 1);
        let coloured = wrapped(Screen { has_colour: true, ..PLAIN }, "one two three four five");
        assert_eq!(coloured, "\u{1b}[31m  one two three four\u{1b}[0m\n\u{1b}[31m    five\u{1b}[0m\n");
    }

    #[test]
    fn without_utf_8_text_is_ascii() {
        let ascii = Screen { is_utf8: false, ..PLAIN };
        assert_eq!(
            (ascii.text("caf\u{e9} \u{1f600}"), PLAIN.text("\u{e9}")),
            ("caf\\u00e9 \\ud83d\\ude00".into(), "\u{e9}".into())
        );
    }
}
