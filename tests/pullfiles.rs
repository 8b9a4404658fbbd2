//! Some files of an image, each to where it is wanted.

use std::fs;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::common::image::Image;
use crate::common::registry::{Fault, On, Registry, digest};
use crate::common::workstation::{Workstation, names_in};

const MIB: usize = 1 << 20;
const REPO: &str = "edge/nginx";

fn image() -> Image {
    Image { disks: vec![b"first".to_vec(), b"second".to_vec()], ..Image::new("v1").with_root_of(3 * MIB + 1) }
}

/// Pushes the image in both formats; the references.
fn pushed(registry: &Registry, workstation: &Workstation) -> [String; 2] {
    ["artifacts", "legacy"].map(|format| {
        let reference = registry.reference(REPO, format);
        let mut arguments = workstation.push_arguments(&image(), &reference);
        arguments.extend(["--format".to_owned(), format.to_owned()]);
        workstation.must(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        reference
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_replaces_what_is_at_its_path() {
    let (registry, image) = (Registry::http(), image());
    let workstation = Workstation::new();
    for reference in pushed(&registry, &workstation) {
        let workstation = Workstation::new();
        // Longer than what comes: an append or a write in place would show.
        workstation.write("boot/vmlinuz", vec![b'x'; 100_000]);
        workstation.write("precious", "bytes");
        std::os::unix::fs::symlink("../precious", workstation.path("boot/initrd")).unwrap();
        let other = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let disk = other.path().join("new/b.raw");
        let arguments = ["pullfiles", "--kernel", "boot/vmlinuz", "--initrd", "boot/initrd", "--root", "root.raw"];
        let more = ["--disk", "a.raw", "--disk", disk.to_str().unwrap(), "--config", "c.json", &reference];
        let printed = workstation.must(&[&arguments[..], &more].concat());
        let expected = format!("boot/vmlinuz\nboot/initrd\nroot.raw\na.raw\n{}\nc.json\n", disk.display());
        assert_eq!(printed, expected);
        let read = |name: &str| fs::read(workstation.path(name)).unwrap();
        assert_eq!((read("boot/vmlinuz"), read("boot/initrd")), (image.kernel.clone(), image.initrd.clone()));
        assert_eq!(read("precious"), b"bytes", "a link is not followed");
        assert!(read("root.raw") == image.root);
        assert_eq!((read("a.raw"), fs::read(&disk).unwrap()), (b"first".to_vec(), b"second".to_vec()));
        assert!(read("c.json").starts_with(b"{"));
        assert_eq!(names_in(&workstation.path("boot")), ["initrd", "vmlinuz"]);
        assert_eq!(names_in(&other.path().join("new")), ["b.raw"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_fetched_than_is_asked_for() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    for reference in pushed(&registry, &workstation) {
        registry.take_log();
        workstation.must(&["pullfiles", "--initrd", "initrd", &reference]);
        assert_eq!(fs::read(workstation.path("initrd")).unwrap(), image().initrd);
        assert_eq!(registry.count(&On::blobs().get()), 1, "{reference}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_image_does_not_have_is_told_before_anything_is_fetched() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let [reference, _] = pushed(&registry, &workstation);
    workstation.write("out/kernel", "of before");
    fs::create_dir(workstation.path("dir")).unwrap();
    registry.take_log();
    let said = workstation
        .fails(65, &["pullfiles", "--kernel", "out/kernel", "--disk", "a", "--disk", "b", "--disk", "c", &reference]);
    assert!(said.contains("further disk 2") && said.contains("disk-1-data.raw"), "{said}");
    for (code, arguments) in [
        (64, &["--kernel", "x", "--root", "x"][..]),
        (64, &["--kernel", "x", "--root", "dir/../x"]),
        (64, &[]),
        (73, &["--kernel", "dir"]),
    ] {
        workstation.fails(code, &[&["pullfiles"], arguments, &[&reference[..]]].concat());
    }
    assert_eq!(registry.count(&On::blobs()), 0);
    assert_eq!(names_in(&workstation.path("out")), ["kernel"]);
    assert_eq!(fs::read(workstation.path("out/kernel")).unwrap(), b"of before");
}

#[test]
fn what_a_layout_lacks_and_nobody_asks_for_is_no_fault() {
    let (workstation, image) = (Workstation::new(), image());
    let layout = workstation.path("usb");
    image.write_layout(&layout, "v1");
    let manifest = image.manifest();
    let remove = |digest: &str| fs::remove_file(layout.join("blobs").join(digest.replace(':', "/"))).unwrap();
    remove(&digest(&image.root));
    remove(manifest["config"]["digest"].as_str().unwrap());
    workstation.must(&["pullfiles", "--kernel", "k", "oci:usb:v1"]);
    assert_eq!(fs::read(workstation.path("k")).unwrap(), image.kernel);
    let said = workstation.fails(65, &["pullfiles", "--kernel", "k", "--root", "r", "oci:usb:v1"]);
    assert!(said.contains("disk-root-root.raw") && !said.contains("config"), "{said}");
    let said = workstation.fails(65, &["pullfiles", "--kernel", "k", "--config", "c", "oci:usb:v1"]);
    assert!(said.contains("config") && !said.contains("disk-root-root.raw"), "{said}");
    assert!(workstation.fails(65, &["pull", "oci:usb:v1"]).contains("disk-root-root.raw"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_not_replaced() {
    let (registry, workstation) = (Registry::http(), Workstation::new());
    let [reference, _] = pushed(&registry, &workstation);
    let path = |name: &str| workstation.path("there").join(name);
    fs::create_dir_all(path("kernel")).unwrap();
    fs::remove_dir(path("kernel")).unwrap();
    nix::unistd::mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    std::os::unix::fs::symlink("pipe", path("link")).unwrap();
    let mut there = vec![("pipe", "a named pipe"), ("socket", "a socket"), ("link", "a named pipe")];
    // Null's numbers; only root may make one, and a device without rights will do.
    if mknod(&path("null"), SFlag::S_IFCHR, Mode::empty(), makedev(1, 3)).is_ok() {
        there.push(("null", "a device"));
    }
    registry.take_log();
    let before = names_in(&workstation.path("there"));
    for (name, what) in there {
        let found = path(name).symlink_metadata().unwrap().file_type();
        let said = workstation.fails(73, &["pullfiles", "--kernel", &format!("there/{name}"), &reference]);
        assert!(said.contains(&format!("there/{name} is in the way: it is {what}")), "{said}");
        assert_eq!(path(name).symlink_metadata().unwrap().file_type(), found);
    }
    assert_eq!(names_in(&workstation.path("there")), before, "not even a work directory is made");
    assert_eq!(registry.log().len(), 0, "the registry was not even asked");

    fs::rename(path("pipe"), path("kernel")).unwrap();
    let said = workstation.fails(73, &["pull", "--dir", "there", &reference]);
    assert!(said.contains("there/kernel is in the way: it is a named pipe"), "{said}");
    assert_eq!(registry.count(&On::blobs()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_none_of_a_file_is_refused() {
    let workstation = Workstation::new();
    workstation.push(&image(), "oci:layout:v1");
    for path in ["new/", "new/.."] {
        let said = workstation.fails(64, &["pullfiles", "--kernel", path, "oci:layout:v1"]);
        assert!(said.contains(&format!("{path} is no path of a file")), "{said}");
    }
    workstation.write("file", "of before");
    let said = workstation.fails(73, &["pull", "--dir", "file", "oci:layout:v1"]);
    assert!(said.contains("file is in the way: it is a file"), "{said}");
    assert_eq!(fs::read(workstation.path("file")).unwrap(), b"of before");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_one_goes_on_where_it_stopped() {
    let (registry, workstation, image) = (Registry::http(), Workstation::new(), image());
    let [reference, _] = pushed(&registry, &workstation);
    let root = On::blobs().get().reference(&digest(&image.root));
    registry.inject(root.clone().once(), Fault::DropAfter(2 * MIB as u64));
    let short = registry.inject(root.clone().skip(1), Fault::DropAfter(1000));
    registry.take_log();
    workstation.write("out/root.raw", "of before");
    let arguments = ["pullfiles", "--root", "out/root.raw", &reference];
    workstation.fails(69, &arguments);
    short.remove();
    assert_eq!(fs::read(workstation.path("out/root.raw")).unwrap(), b"of before");
    workstation.must(&arguments);
    assert!(fs::read(workstation.path("out/root.raw")).unwrap() == image.root);
    assert_eq!(registry.body_bytes(&root), image.root.len() as u64, "each byte came once");
    assert_eq!(names_in(&workstation.path("out")), ["root.raw"]);
}
