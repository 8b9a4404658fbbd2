//! `eci demo` tells the whole story and leaves nothing behind.

use std::process::Command;

use crate::common::agent::ECI;

#[test]
fn the_demo_deploys_updates_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let output = Command::new(ECI).arg("demo").env("TMPDIR", temporary.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for told in [
        "current -> generations/default/1:",
        "v1 has 2.8 MiB, of which 2.8 MiB crossed the network",
        "current -> generations/default/2:",
        "v2 has 2.8 MiB, of which 2.3 MiB crossed the network",
        "desired.toml:1:32:",
        "exit status: 0",
    ] {
        assert!(text.contains(told), "{told:?} is not in\n{text}");
    }
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}
