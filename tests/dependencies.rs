//! The table of dependencies in `docs/` lists each one that the program has, and no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn each_dependency_has_a_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let used: BTreeSet<String> = manifest["dependencies"].as_table().unwrap().keys().cloned().collect();
    let page = fs::read_to_string(root.join("docs/dependencies.md")).unwrap();
    let first_cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let listed: BTreeSet<String> =
        first_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    assert_eq!(used, listed);
}
