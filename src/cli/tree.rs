//! An image as a tree for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytesize::ByteSize;

use super::output::counted;
use crate::printable::one_line as plain;
use crate::publish::{Inspection, ManifestPart, NamedFile, Part};

/// Draws what `eci inspect` has found.
pub(super) fn render(found: &Inspection) -> String {
    let mut text = format!("{}\n", plain(&found.reference));
    for (depth, index) in std::iter::successors(found.index.as_ref(), |index| index.nested.as_deref()).enumerate() {
        let indent = "  ".repeat(depth);
        let _ = writeln!(text, "{indent}index {}, {}", index.digest, counted(index.entries.len() as u64, "image"));
        pairs(&mut text, &indent, "annotation", &index.annotations);
        for entry in &index.entries {
            let mark = if entry.chosen { '*' } else { ' ' };
            let platform = entry.platform.as_deref().map_or_else(|| "no platform".to_owned(), plain);
            let _ = writeln!(text, "{indent}{mark} {platform:16} {}", entry.digest.short());
        }
    }
    match &found.manifest {
        None => text.push_str("none of them is for this machine; choose one with --platform\n"),
        Some(manifest) => {
            let _ = writeln!(text, "manifest {}, {}", manifest.digest, ByteSize(manifest.size));
            statements(&mut text, manifest);
            let parts: Vec<&Part> = std::iter::once(&manifest.config).chain(&manifest.layers).collect();
            branches(&mut text, &parts.into_iter().map(row).collect::<Vec<_>>());
            if !manifest.files.is_empty() {
                text.push_str("files by their paths in it\n");
                branches(&mut text, &manifest.files.iter().map(named_row).collect::<Vec<_>>());
            }
            if let Some(problem) = &manifest.problem {
                let _ = writeln!(text, "! cannot be deployed: {}", plain(problem));
            }
        }
    }
    text
}

/// The manifest's annotations and the config's statements, one a line.
fn statements(text: &mut String, manifest: &ManifestPart) {
    pairs(text, "", "annotation", &manifest.annotations);
    let stated = &manifest.stated;
    let platform = stated.platform();
    for (name, value) in [("platform", &platform), ("author", &stated.author)] {
        if let Some(value) = value {
            let _ = writeln!(text, "  {name} {}", plain(value));
        }
    }
    pairs(text, "", "label", &stated.labels);
    if let Some(problem) = &stated.problem {
        let _ = writeln!(text, "  ! the config cannot be read: {}", plain(problem));
    }
}

fn pairs(text: &mut String, indent: &str, name: &str, pairs: &BTreeMap<String, String>) {
    for (key, value) in pairs {
        let _ = writeln!(text, "{indent}  {name} {}={}", plain(key), plain(value));
    }
}

/// Draws rows in columns. The last but one is of numbers.
fn branches(text: &mut String, rows: &[[String; 5]]) {
    let mut widths = [0; 5];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for (place, row) in rows.iter().enumerate() {
        let branch = if place + 1 == rows.len() { "└──" } else { "├──" };
        let [role, name, format, size, last] = row;
        let [roles, names, formats, sizes, _] = widths;
        let _ = writeln!(text, "{branch} {role:roles$}  {name:names$}  {format:formats$}  {size:>sizes$}  {last}");
    }
}

/// Role, name, format (the media type where the format says nothing), size, digest.
fn row(part: &Part) -> [String; 5] {
    let or_dash = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), plain);
    let format = part.format.as_deref().unwrap_or(&part.media_type);
    [or_dash(&part.role), or_dash(&part.name), plain(format), ByteSize(part.size).to_string(), part.digest.short()]
}

/// Role, name, format, and the path; how large it is, only its layer knows.
fn named_row(file: &NamedFile) -> [String; 5] {
    [plain(&file.role), plain(&file.name), file.format.clone(), "from".to_owned(), plain(&file.path)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;
    use crate::publish::{IndexEntry, IndexPart, StatedConfig};

    fn part(role: &str, name: &str, format: Option<&str>, size: u64) -> Part {
        Part {
            role: Some(role.to_owned()),
            name: Some(name.to_owned()),
            format: format.map(ToOwned::to_owned),
            media_type: "application/x\u{1b}[31m".to_owned(),
            size,
            digest: Digest::of(name.as_bytes()),
        }
    }

    fn found() -> Inspection {
        Inspection {
            reference: "a.example/b:c".to_owned(),
            index: None,
            manifest: Some(ManifestPart {
                digest: Digest::of(b"m"),
                media_type: "m".to_owned(),
                size: 1 << 20,
                annotations: BTreeMap::new(),
                stated: StatedConfig::default(),
                config: part("config", "config.json", None, 14),
                layers: vec![part("disk-root", "disk-root-root.raw", Some("raw"), 1 << 20)],
                files: Vec::new(),
                problem: None,
            }),
        }
    }

    #[test]
    fn a_tree_has_roles_names_formats_sizes_and_short_digests() {
        let digest = |name: &str| Digest::of(name.as_bytes()).short();
        let expected = format!(
            "a.example/b:c\n\
             manifest {}, 1.0 MiB\n\
             ├── config     config.json         application/x\u{fffd}[31m     14 B  {}\n\
             └── disk-root  disk-root-root.raw  raw                 1.0 MiB  {}\n",
            Digest::of(b"m"),
            digest("config.json"),
            digest("disk-root-root.raw"),
        );
        assert_eq!(render(&found()), expected);
    }

    #[test]
    fn annotations_and_the_config_are_shown_harmlessly() {
        let mut found = found();
        let manifest = found.manifest.as_mut().unwrap();
        manifest.annotations = [("a".to_owned(), "b\u{202e}\n* c".to_owned())].into();
        manifest.stated = StatedConfig {
            os: Some("linux".to_owned()),
            architecture: Some("arm".to_owned()),
            variant: Some("v7".to_owned()),
            author: Some("A\u{1b}[2J".to_owned()),
            labels: [("l".to_owned(), "\u{2066}/x".to_owned())].into(),
            problem: None,
        };
        let expected = [
            "  annotation a=b\u{fffd} * c",
            "  platform linux/arm/v7",
            "  author A\u{fffd}[2J",
            "  label l=\u{fffd}/x",
        ];
        assert_eq!(render(&found).lines().skip(2).take(4).collect::<Vec<_>>(), expected);
        let stated = StatedConfig { problem: Some("it is not JSON".to_owned()), ..StatedConfig::default() };
        found.manifest.as_mut().unwrap().stated = stated;
        assert!(render(&found).contains("\n  ! the config cannot be read: it is not JSON\n"));
    }

    #[test]
    fn an_index_is_listed_even_where_nothing_fits() {
        let entry = IndexEntry { platform: Some("linux/s390x".to_owned()), digest: Digest::of(b"x"), chosen: false };
        let index = IndexPart {
            digest: Digest::of(b"i"),
            media_type: "i".to_owned(),
            annotations: [("k".to_owned(), "v".to_owned())].into(),
            entries: vec![entry],
            nested: None,
        };
        let text = render(&Inspection { index: Some(index), manifest: None, ..found() });
        assert!(
            text.contains("\n  annotation k=v\n") && text.contains("  linux/s390x ") && text.contains("--platform"),
            "{text}"
        );
    }
}
