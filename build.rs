//! Lists the crates that become part of the program, for `eci version --json`.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-changed=Cargo.toml");
    let target = env::var("TARGET")?;
    // Neither procedural macros nor what builds and tests need: they are not in the program.
    let tree = Command::new(env::var("CARGO")?)
        .args(["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none"])
        .args(["--target", &target, "--format", "{p}|{l}"])
        .output()?;
    if !tree.status.success() {
        return Err(format!("cargo tree failed: {}", String::from_utf8_lossy(&tree.stderr)).into());
    }
    let crates: BTreeSet<String> = String::from_utf8(tree.stdout)?.lines().filter_map(component).collect();
    let list: String = crates.into_iter().collect();
    fs::write(Path::new(&env::var("OUT_DIR")?).join("components"), list)?;
    println!("cargo::rustc-env=ECI_TARGET={target}");
    Ok(())
}

/// A line `NAME VERSION LICENCE` of one such as `serde v1.0.1 (note)|MIT OR Apache-2.0 (*)`.
fn component(line: &str) -> Option<String> {
    let (package, licence) = line.split_once('|')?;
    let mut words = package.split_whitespace();
    let (name, version) = (words.next()?, words.next()?.trim_start_matches('v'));
    Some(format!("{name} {version} {}\n", licence.trim_end_matches("(*)").trim()))
}
