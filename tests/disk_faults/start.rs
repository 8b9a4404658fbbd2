//! Of the agent's start: it says what is wrong and ends; nothing is lost, and a later start works.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;

use super::{Disk, Fault, distinct, faults, is_full, named, wait_until};
use crate::common::agent::{Node, files_below};
use crate::common::image::Image;
use crate::common::registry::{Registry, digest};

/// How a start ended: none where the agent became ready. It is stopped then.
fn start(node: &Node) -> Option<ExitStatus> {
    let (mut agent, notify) = node.spawn(&[]);
    notify.set_nonblocking(true).unwrap();
    let mut message = [0; 4096];
    let mut ended = None;
    wait_until("ready, or ended", node, || {
        ended = agent.try_wait().unwrap();
        let told =
            notify.recv(&mut message).map(|count| String::from_utf8_lossy(&message[..count]).contains("READY=1"));
        ended.is_some() || told.unwrap_or(false)
    });
    let _ = agent.kill();
    agent.wait().unwrap();
    ended
}

/// Every file that is whole, and what is in it.
fn whole(node: &Node) -> BTreeMap<PathBuf, Vec<u8>> {
    let state = node.state_dir();
    let is_whole = |path: &PathBuf| {
        let is_unfinished = path.iter().any(|name| name.as_encoded_bytes().starts_with(b"."));
        !is_unfinished && !path.starts_with("partial") && path.as_os_str() != "lock"
    };
    let read = |path: PathBuf| {
        let link = fs::read_link(state.join(&path)).map(|target| target.into_os_string().into_encoded_bytes());
        let bytes = link.or_else(|_| fs::read(state.join(&path))).unwrap();
        (path, bytes)
    };
    files_below(&state).into_iter().filter(is_whole).map(read).collect()
}

/// Has each step of a start fail; how many times that was.
fn fail_each(node: &mut Node, disk: &Disk, reset: impl Fn(&Node)) -> usize {
    reset(node);
    disk.taken();
    assert_eq!(start(node), None, "{}", node.log());
    let steps = distinct(disk.taken());
    let mut count = 0;
    for (n, step) in steps.iter().enumerate() {
        let faults = faults(step);
        for (m, with) in faults.iter().enumerate() {
            if !is_full() && m != n % faults.len() {
                continue;
            }
            reset(node);
            let (before, said) = (whole(node), node.log().len());
            disk.fail(&Fault::lasting(step, *with));
            let ended = start(node);
            let said = node.log()[said..].to_owned();
            disk.heal();
            if disk.strikes() == 0 {
                // It came before the agent was stopped, or did not.
                continue;
            }
            count += 1;
            let struck = &disk.struck(&node.state_dir())[0];
            assert!(said.contains(struck) && said.contains(named(*with).1), "{struck}: {said}");
            // An agent whose disk is full has to start, with leases or without.
            let is_tolerated = step.contains(" leases") && named(*with).0 == "disk-full";
            let expected = if is_tolerated { None } else { Some(73) };
            assert_eq!(ended.and_then(|ended| ended.code()), expected, "{struck}: {said}");
            let after = whole(node);
            assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)), "{struck}");
            assert_eq!(start(node), None, "{struck}: {}", node.log());
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_write_says_so_and_leaves_what_is_there() {
    let registry = Registry::http();
    let mut node = Node::new();
    let disk = Disk::under(&mut node);
    let empty = fail_each(&mut node, &disk, |node| {
        let _ = fs::remove_dir_all(node.state_dir());
    });
    let _ = fs::remove_dir_all(node.state_dir());
    Image::new("v1").publish(&registry, "edge/nginx", "v1");
    node.desire_image(&registry.reference("edge/nginx", "v1"));
    node.start();
    node.until_activated("nginx:v1");
    node.stop();
    let _ = fs::remove_file(node.desired());
    let used = fail_each(&mut node, &disk, |node| {
        // What a kill may leave.
        fs::create_dir_all(node.state_dir().join("generations/default/.9.new")).unwrap();
        fs::write(node.state_dir().join("partial").join(format!("{}.1.staged", &digest(b"x")[7..])), "x").unwrap();
        let _ = fs::remove_file(node.state_dir().join("current"));
    });
    println!("{empty} times in an empty directory, {used} in one that is in use");
    assert!(empty > 0 && used > 0);
    assert_eq!(node.current("disk-root"), b"root disk of v1");
}
