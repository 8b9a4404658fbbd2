//! A file imports from lower layers only, and only `durable` changes the disk. The list of the layers is the order of
//! `pub mod` in `src/lib.rs`.

use std::fs;
use std::path::{Path, PathBuf};

/// The topmost layer, the binary and the front page may use everything.
const FREE: [&str; 3] = ["cli", "main", "lib"];

#[test]
fn a_file_imports_from_lower_layers_only() {
    let layers = layers();
    let rank = |name: &str| layers.iter().position(|layer| layer == name);
    let mut upward = Vec::new();
    for file in files(&source()) {
        let own = layer_of(&file);
        if FREE.contains(&own.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for (line, name) in imports(&code_of(&text)) {
            if rank(&name) > rank(&own) {
                let file = file.strip_prefix(source().parent().unwrap()).unwrap().display();
                upward.push(format!("{file}:{line}: {own} imports from {name}, which is above it"));
            }
        }
    }
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

#[test]
fn every_folder_is_a_layer_and_the_table_has_them_in_their_order() {
    let layers = layers();
    for file in files(&source()) {
        let own = layer_of(&file);
        let known = layers.contains(&own) || FREE.contains(&own.as_str());
        assert!(known, "{} belongs to no layer of src/lib.rs", file.display());
    }
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    let row = |line: &str| Some(line.strip_prefix("//! | [`")?.split_once("`]")?.0.to_owned());
    // A row without a module is a broken link, which the documentation's build reports.
    let rows: Vec<_> = text.lines().filter_map(row).filter(|row| layers.contains(row)).collect();
    assert_eq!(rows, layers, "the table at the top of src/lib.rs has the modules in their order");
}

/// Who changes the disk without `durable`: the socket is gone with the process, the page of a download's ledger is opened
/// to be written over and over, and what a demonstration writes is a person's.
const CHANGES_THE_DISK: [&str; 3] = ["api/listener.rs", "cache/ledger.rs", "cli/demo"];

#[test]
fn the_disk_is_changed_by_durable_alone() {
    const WAYS: [&str; 15] = [
        "fs::write",
        "fs::rename",
        "fs::remove_",
        "fs::create_dir",
        "fs::hard_link",
        "fs::copy",
        "fs::set_permissions",
        ".set_permissions(",
        ".set_len(",
        ".sync_",
        "File::create",
        ".create(true)",
        ".create_new(",
        "DirBuilder",
        "symlink(",
    ];
    let mut elsewhere = Vec::new();
    for file in files(&source()) {
        let name = file.strip_prefix(source()).unwrap().to_str().unwrap();
        if name.starts_with("durable/") || CHANGES_THE_DISK.iter().any(|free| name.starts_with(free)) {
            continue;
        }
        let code = code_of(&fs::read_to_string(&file).unwrap());
        let code = code.split("#[cfg(test)]").next().unwrap();
        for (n, line) in code.lines().enumerate() {
            // What looks a link up changes nothing.
            let line = line.replace("is_symlink(", "");
            if WAYS.iter().any(|way| line.contains(way)) {
                elsewhere.push(format!("src/{name}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    assert!(elsewhere.is_empty(), "{}", elsewhere.join("\n"));
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The modules of the crate as `src/lib.rs` lists them, lowest first.
fn layers() -> Vec<String> {
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    let module = |line: &str| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned());
    text.lines().filter_map(module).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The folder, or the name of a file that lies in none.
fn layer_of(file: &Path) -> String {
    let first = file.strip_prefix(source()).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The modules of the crate that `code` names, each with its line. A path may also climb to them by `super`; a submodule
/// that bears the name of a higher layer is taken for it, and would be as confusing to a reader.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            if code[..at].ends_with(|before: char| is_word(before) || before == '$') {
                continue;
            }
            let line = 1 + code[..at].matches('\n').count();
            let names = first_names(&code[at + root.len()..]);
            found.extend(names.into_iter().map(|(below, name)| (line + below, name)));
        }
    }
    found.sort();
    found
}

/// The first name of the path that `rest` begins with, or of each path in a group, with the number of lines before it.
fn first_names(rest: &str) -> Vec<(usize, String)> {
    let name = |text: &str| text.trim_start().chars().take_while(|c| is_word(*c)).collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![(0, name(rest))] };
    let (mut names, mut depth, mut starts) = (Vec::new(), 1, true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => starts = true,
            _ if depth == 1 && starts && is_word(character) => {
                names.push((group[..at].matches('\n').count(), name(&group[at..])));
                starts = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// `text` without comments and without what stands between quotes; lines stay where they are.
fn code_of(text: &str) -> String {
    let (mut code, mut rest) = (String::new(), text);
    while let Some(character) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if !code.ends_with(is_word) && (rest.starts_with("r\"") || rest.starts_with("r#")) {
            raw_string(rest)
        } else if character == '"' {
            string(rest)
        } else {
            char_literal(rest)
        };
        if skipped == 0 {
            code.push(character);
            rest = &rest[character.len_utf8()..];
        } else {
            code.extend(rest[..skipped].chars().filter(|skipped| *skipped == '\n'));
            rest = &rest[skipped..];
        }
    }
    code
}

/// How long the comment is that `rest` begins with. Comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let step = &rest.as_bytes()[at..];
        if step.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if step.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += 1;
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// How long the raw string is that `rest` begins with; 0 for a raw identifier.
fn raw_string(rest: &str) -> usize {
    let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
    let Some(content) = rest[1 + hashes..].strip_prefix('"') else { return 0 };
    let end = format!("\"{}", "#".repeat(hashes));
    content.find(&end).map_or(rest.len(), |length| 2 + hashes + length + end.len())
}

/// How long the string is that `rest` begins with.
fn string(rest: &str) -> usize {
    let mut escaped = true;
    for (at, character) in rest.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// How long the character is that `rest` begins with; 0 where it begins with something else, as a lifetime does.
fn char_literal(rest: &str) -> usize {
    let Some(content) = rest.strip_prefix('\'') else { return 0 };
    let escape = if content.starts_with('\\') { 2 } else { 0 };
    let Some(end) = content.get(escape..).and_then(|content| content.find('\'')) else { return 0 };
    let one = content[..escape + end].chars().count() == 1;
    if one || escape > 0 { 1 + escape + end + 1 } else { 0 }
}

#[test]
fn imports_are_found_where_they_are_and_nowhere_else() {
    for (text, want) in [
        ("use crate::oci::Digest;", vec![(1, "oci")]),
        ("\nlet x = crate::api::Y;", vec![(2, "api")]),
        (
            "use crate::{agent, api::{cli, x},\n    cli as c, self};",
            vec![(1, "agent"), (1, "api"), (2, "cli"), (2, "self")],
        ),
        ("use super::super::agent::State;", vec![(1, "agent"), (1, "super")]),
        ("// crate::api\n/// [`crate::api`]\n/* crate::api /* */ crate::api */ crate::oci", vec![(3, "oci")]),
        ("\"crate::api \\\" crate::api\" crate::oci", vec![(1, "oci")]),
        ("r#\"\n crate::api \"# crate::oci", vec![(2, "oci")]),
        ("fn f<'a>(c: char) { c == '\"' || c == '\\'' || c == '\\\\'; crate::oci }", vec![(1, "oci")]),
        ("\"http://x\"; $crate::api; r#crate; other_crate::api; crate::oci", vec![(1, "oci")]),
    ] {
        let found = imports(&code_of(text));
        let found: Vec<_> = found.iter().map(|(line, name)| (*line, name.as_str())).collect();
        assert_eq!(found, want, "{text}");
    }
}
