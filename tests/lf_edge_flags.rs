//! The command line of lf-edge's own tool, taken as it is by its users' scripts.

use std::fs;

use crate::common::image::Image;
use crate::common::registry::{Registry, digest};
use crate::common::workstation::Workstation;

const REFERENCE: &str = "lfedge/eci-nginx:ubuntu-1804";

fn image() -> Image {
    Image { disks: vec![b"first".to_vec(), b"second".to_vec()], ..Image::new("v1") }
}

/// A workstation with an image's files.
fn workstation() -> Workstation {
    let workstation = Workstation::new();
    workstation.push_arguments(&image(), "");
    workstation
}

/// A push with every flag that its push has, to a directory.
fn push_line(dir: &str, format: &str) -> Vec<String> {
    let line = "push --kernel vmlinuz --initrd initrd.img --root root.raw:raw --disk 0/data.raw:raw,1/data.raw:raw \
                --author me --OS linux --arch arm64 --debug=false --verbose=false --namespace default";
    let line = format!("{line} --format {format} --remote {dir} {REFERENCE}");
    line.split_whitespace().map(ToOwned::to_owned).collect()
}

fn run(workstation: &Workstation, line: &str) -> String {
    workstation.must(&line.split(' ').collect::<Vec<_>>())
}

#[test]
fn every_flag_of_push_pull_and_pullfiles_is_accepted() {
    let workstation = workstation();
    for format in ["artifacts", "legacy"] {
        let dir = workstation.path(&format!("dir-{format}"));
        let dir = dir.to_str().unwrap();
        workstation.must(&push_line(dir, format).iter().map(String::as_str).collect::<Vec<_>>());
        let config = run(&workstation, &format!("inspect --config --remote {dir} {REFERENCE}"));
        assert!(config.contains(r#""author":"me","os":"linux","architecture":"arm64""#), "{config}");
        let flags = format!("--blocksize 32768 --debug=false --verbose=false --namespace default --remote {dir}");
        run(&workstation, &format!("pull --dir out-{format} {flags} {REFERENCE}"));
        workstation.has_pulled(&format!("out-{format}"), &image());
        run(&workstation, &format!("pullfiles --kernel k --initrd i --root r --config c {flags} {REFERENCE}"));
        let [k, i, r, c] = ["k", "i", "r", "c"].map(|name| fs::read(workstation.path(name)).unwrap());
        assert_eq!([&k, &i, &r, &c], [&image().kernel, &image().initrd, &image().root, &config.into_bytes()]);
    }
    // The same without them stays the same image.
    let plain = workstation.push(&image(), "oci:plain:1");
    let pushed = run(
        &workstation,
        &format!(
            "push --namespace x --kernel vmlinuz --initrd initrd.img --root root.raw:raw --disk 0/data.raw:raw --disk 1/data.raw:raw --remote other {REFERENCE}"
        ),
    );
    assert_eq!(plain.split_once('@').unwrap().1, pushed.split_once('@').unwrap().1);
}

#[test]
fn remote_takes_every_form_of_a_directory() {
    let workstation = workstation();
    workstation.push(&image(), "oci:made:ubuntu-1804");
    let whole = workstation.path("made");
    let whole = whole.to_str().unwrap();
    for (n, remote) in ["made", "./made", "oci:made", whole, &format!("file://{whole}")].into_iter().enumerate() {
        run(&workstation, &format!("pull --dir after-{n} --remote {remote} {REFERENCE}"));
        workstation.has_pulled(&format!("after-{n}"), &image());
        run(&workstation, &format!("--remote {remote} --namespace x pull --dir before-{n} {REFERENCE}"));
        workstation.has_pulled(&format!("before-{n}"), &image());
    }
    for remote in ["registry.example.com/edge", "localhost:5000/edge", "http://a.example", "docker-daemon:x"] {
        let said = workstation.fails(64, &["push", "--kernel", "vmlinuz", "--remote", remote, REFERENCE]);
        assert!(said.contains("oci:DIR"), "{said}");
    }
    for (command, flag) in [("push", "--kernel"), ("pullfiles", "--kernel"), ("pull", "--dir")] {
        for remote in ["containerd:/run/containerd/containerd.sock", "containerd:"] {
            let said = workstation.fails(64, &[command, flag, "vmlinuz", "--remote", remote, REFERENCE]);
            assert!(said.contains("ctr image import --no-unpack --base-name"), "{said}");
            assert!(said.contains("ctr image export"), "{said}");
            let before = workstation.fails(64, &["--remote", remote, command, flag, "vmlinuz", REFERENCE]);
            assert!(before.contains("ctr image import"), "{before}");
        }
    }
    assert!(!workstation.path("containerd:").exists());
    workstation.fails(64, &["--remote", "made", "status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_value_is_none() {
    let (registry, workstation) = (Registry::http(), workstation());
    let reference = registry.reference("edge/nginx", "v1");
    let empty =
        ["--config", "", "--author", "", "--OS", "", "--arch", "", "--remote", "", "--disk", "", "--namespace", ""];
    let pushed = [&["push", "--kernel", "vmlinuz"][..], &empty, &["--root", "root.raw:raw", &reference]].concat();
    let pushed = workstation.must(&pushed);
    let plain = workstation.must(&["push", "--kernel", "vmlinuz", "--root", "root.raw:raw", &reference]);
    assert_eq!(pushed, plain);
    workstation.must(&["push", "--kernel", "vmlinuz", "--root", "", &registry.reference("edge/nginx", "kernel")]);
    // A kernel's path that is empty is a mistake of the script; it is to lf-edge's tool too.
    workstation.fails(64, &["push", "--kernel", "", "--root", "root.raw:raw", &reference]);
    let files =
        ["pullfiles", "--kernel", "k", "--initrd", "", "--root", "", "--config", "", "--remote", "", &reference];
    assert_eq!(workstation.must(&files), "k\n");
    workstation.fails(64, &["pullfiles", "--kernel", "", &reference]);
    fs::create_dir(workstation.path("here")).unwrap();
    let mut pull = workstation.command(&["pull", "--dir", "", &reference]);
    assert!(pull.current_dir(workstation.path("here")).output().unwrap().status.success());
    assert_eq!(digest(&fs::read(workstation.path("here/kernel")).unwrap()), digest(&image().kernel));
}

#[test]
fn flags_without_effect_are_not_in_the_help() {
    let workstation = Workstation::new();
    for command in ["push", "pull", "pullfiles", "inspect"] {
        let help = workstation.must(&[command, "--help"]);
        assert!(!help.contains("--blocksize") && !help.contains("--namespace"), "{help}");
        assert!(help.contains("--remote <DIR>"), "{help}");
    }
    let said = workstation.fails(64, &["pull", "--block-size", "1", REFERENCE]);
    assert!(said.contains("--block-size"), "{said}");
}
