//! `eci pull` fetches some files at a time: the order in which they come makes no difference, and one that does not come
//! ends the others where they are.

use std::process::{Child, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::common::agent::PATIENCE;
use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};
use crate::common::workstation::{Workstation, names_in};

const MIB: usize = 1 << 20;
const REPO: &str = "edge/nginx";

fn gets(blob: &[u8]) -> On {
    On::blobs().get().reference(&digest(blob))
}

fn begin(workstation: &Workstation, reference: &str) -> Child {
    let mut command = workstation.command(&["pull", "--dir", "out", reference]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never {what}");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_late_keeps_no_other_waiting() {
    let registry = Registry::http();
    let image = Image { disks: vec![b"data".to_vec(), b"more data".to_vec()], ..Image::new("v1").with_root_of(MIB) };
    image.publish(&registry, REPO, "v1");
    let files: [&[u8]; 5] = [&image.kernel, &image.initrd, &image.root, &image.disks[0], &image.disks[1]];
    let mut printed = Vec::new();
    for late in files {
        let workstation = Workstation::new();
        registry.take_log();
        let hold = registry.inject(gets(late), Fault::Hold);
        let pull = begin(&workstation, &registry.reference(REPO, "v1"));
        hold.struck(1).await;
        wait_until("asked for the others", || files.iter().all(|file| registry.count(&gets(file)) == 1));
        hold.remove();
        let output = pull.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        workstation.has_pulled("out", &image);
        printed.push(output.stdout);
    }
    assert!(printed.windows(2).all(|two| two[0] == two[1]), "the order is the image's, not that of their coming");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wrong_ends_the_others_and_what_came_of_them_is_kept() {
    let registry = Registry::http();
    let image = Image { disks: vec![b"data".to_vec()], ..Image::new("v1").with_root_of(3 * MIB) };
    image.publish(&registry, REPO, "v1");
    let workstation = Workstation::new();
    let hold = registry.inject(gets(&image.disks[0]), Fault::Hold);
    registry.inject(gets(&image.disks[0]), Fault::FlipByte(0));
    let stall = registry.inject(gets(&image.root), Fault::StallAfter(MIB as u64));
    let pull = begin(&workstation, &registry.reference(REPO, "v1"));
    stall.struck(1).await;
    hold.struck(1).await;
    let partial = workstation.path("out/.eci-pull/partial").join(digest(&image.root).trim_start_matches("sha256:"));
    let written = || {
        let page = std::fs::read(partial.with_extension("written")).unwrap_or_default();
        let page: Value = serde_json::from_slice(&page).unwrap_or_default();
        page["written"][0][1].as_u64().unwrap_or(0)
    };
    wait_until("written", || written() == MIB as u64);
    hold.remove();
    let output = pull.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(65), "{said}");
    assert!(said.contains(&digest(&image.disks[0])), "{said}");
    assert_eq!(names_in(&workstation.path("out")), [".eci-pull"], "no file has its name yet");
    assert!(partial.with_extension("synced").exists(), "what came is durable");

    registry.clear_faults();
    registry.take_log();
    workstation.must(&["pull", "--dir", "out", &registry.reference(REPO, "v1")]);
    workstation.has_pulled("out", &image);
    assert_eq!(registry.body_bytes(&gets(&image.root)), 2 * MIB as u64, "no byte is paid for twice");
    assert_eq!(registry.count(&gets(&image.kernel)), 0);
}
