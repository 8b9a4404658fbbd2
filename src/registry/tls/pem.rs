//! PEM files: the sections in them, each with the line that it begins at (RFC 7468).

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// Base64 with or without padding: some tools leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The text between a `BEGIN` and an `END` line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// The kind of the section, such as `CERTIFICATE`.
    pub(super) label: String,
    /// The line of the file at which the section begins, counted from 1.
    pub(super) line: usize,
    /// True if a header says that the contents are encrypted, which is the old form of PEM.
    pub(super) is_encrypted: bool,
    /// The contents, or the reason why they cannot be read.
    pub(super) contents: Result<Vec<u8>, &'static str>,
}

/// The sections of a PEM file, in order. Text around them is ignored, and so is a byte order mark.
pub(super) fn sections(file: &[u8]) -> Vec<Section> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut found = Vec::new();
    let mut open: Option<(Section, Vec<u8>)> = None;
    for (n, line) in file.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if let Some(label) = between(line, b"-----BEGIN ") {
            found.extend(open.take().map(|(section, _)| section));
            let contents = Err("it has no END line");
            open = Some((Section { label, line: n + 1, is_encrypted: false, contents }, Vec::new()));
        } else if let Some(label) = between(line, b"-----END ") {
            let Some((mut section, text)) = open.take() else { continue };
            section.contents = if label == section.label {
                BASE64.decode(text).map_err(|_| "its text is not base64")
            } else {
                Err("its END line names something else than its BEGIN line")
            };
            found.push(section);
        } else if let Some((section, text)) = &mut open {
            // Headers of the old form; base64 has no colon.
            if line.contains(&b':') {
                section.is_encrypted |= line.ends_with(b"ENCRYPTED");
            } else if !line.starts_with(b"DEK-Info") {
                text.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
            }
        }
    }
    found.extend(open.map(|(section, _)| section));
    found
}

fn between(line: &[u8], start: &[u8]) -> Option<String> {
    let label = line.strip_prefix(start)?.strip_suffix(b"-----")?;
    Some(String::from_utf8_lossy(label).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Read = (String, usize, Result<Vec<u8>, &'static str>);

    fn read(text: &str) -> Vec<Read> {
        let read = sections(text.as_bytes()).into_iter();
        read.map(|section| (section.label, section.line, section.contents)).collect()
    }

    #[test]
    fn sections_are_found_among_other_text() {
        let text = "# a root\nsubject=CN = x: y\n-----BEGIN CERTIFICATE-----\nQUJD\n  REVG  \n-----END CERTIFICATE-----\n\
            \n-----BEGIN PRIVATE KEY-----\nQQ\n-----END PRIVATE KEY-----trailing\n-----END PRIVATE KEY-----\nand so on";
        let expected = [
            ("CERTIFICATE".to_owned(), 3, Ok(b"ABCDEF".to_vec())),
            ("PRIVATE KEY".to_owned(), 8, Err("its text is not base64")),
        ];
        assert_eq!(read(text), expected);
        let windows = text.replace('\n', "\r\n");
        assert_eq!(read(&windows), expected);
        assert_eq!(read(&format!("\u{feff}{}", "-----BEGIN A-----\nQUJD\n-----END A-----")).len(), 1);
        assert_eq!(read("no section"), []);
    }

    #[test]
    fn damaged_sections_are_named() {
        let damaged = |text: &str| read(text).into_iter().map(|(_, line, contents)| (line, contents.unwrap_err()));
        let text = "-----BEGIN A-----\nQQ==\n-----BEGIN B-----\nQQ==\n-----END C-----\n\n-----BEGIN D-----\nQQ=";
        let expected = [
            (1, "it has no END line"),
            (3, "its END line names something else than its BEGIN line"),
            (7, "it has no END line"),
        ];
        assert_eq!(damaged(text).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn encrypted_keys_are_recognized() {
        let text = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nQUJD\n\
            -----END RSA PRIVATE KEY-----";
        let [section] = sections(text.as_bytes()).try_into().unwrap();
        assert!(section.is_encrypted);
        assert_eq!(section.contents.unwrap(), b"ABC");
    }

    proptest! {
        #[test]
        fn no_file_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            sections(&bytes);
        }

        #[test]
        fn contents_come_back(bytes in prop::collection::vec(any::<u8>(), 0..200), width in 4..80_usize) {
            let text = BASE64.encode(&bytes);
            let lines: Vec<_> = text.as_bytes().chunks(width).map(|line| String::from_utf8_lossy(line)).collect();
            let file = format!("-----BEGIN X-----\n{}\n-----END X-----\n", lines.join("\r\n"));
            prop_assert_eq!(sections(file.as_bytes()).remove(0).contents, Ok(bytes));
        }
    }
}
