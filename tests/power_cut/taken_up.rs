//! What an agent has changed and not come to sync is synced before anything is built on it: on a file system that does not
//! keep the order of changes in several directories, a power cut would take only the first back.

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::restart::all;
use super::story::End;
use crate::common::agent::{Node, PATIENCE};
use crate::common::fault_points::{Answer, Point, arm};
use crate::common::image::Image;
use crate::common::registry::Registry;

const REPO: &str = "edge/nginx";

/// What was made, in order.
type Record = Arc<Mutex<Vec<String>>>;

/// A registry with some images, and a node that desires the first; `answer` decides what becomes of its syncs of `dir`, and
/// all that is made is recorded.
fn watched(dir: &'static str, mut answer: impl FnMut() -> Answer + Send + 'static) -> (Registry, Node, Record) {
    let (registry, mut node, record) = (Registry::http(), Node::new(), Record::default());
    let made = Arc::clone(&record);
    arm(&mut node, move |point: &Point| {
        if point.is_made {
            made.lock().unwrap().push(format!("{} {}", point.operation, point.path.display()));
        } else if point.operation == "sync the directory" && point.path == Path::new(dir) {
            return answer();
        }
        Answer::Go
    });
    for tag in ["v1", "v2", "v3"] {
        Image::new(tag).publish(&registry, REPO, tag);
    }
    node.desire_image(&registry.reference(REPO, "v1"));
    (registry, node, record)
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_a_killed_agent_swapped_are_durable_before_a_generation_goes() {
    const LINKS: &str = "workloads/default";
    let (victim, killed) = (Arc::new(Mutex::new(None)), channel());
    let next = Arc::clone(&victim);
    let (registry, mut node, record) = watched(LINKS, move || {
        if let Some(pid) = next.lock().unwrap().take() {
            kill(pid, Signal::SIGKILL).unwrap();
            killed.0.send(()).unwrap();
        }
        Answer::Go
    });
    node.start();
    node.until_activated("nginx:v1");
    node.desire_image(&registry.reference(REPO, "v2"));
    node.until_activated("nginx:v2");
    *victim.lock().unwrap() = Some(Pid::from_raw(i32::try_from(node.pid()).unwrap()));
    node.desire_image(&registry.reference(REPO, "v3"));
    killed.1.recv_timeout(PATIENCE).unwrap();
    node.kill();
    record.lock().unwrap().clear();
    node.start();
    all(&node, vec![End::Active("default")]);
    assert!(node.eci(&["gc"]).status.success());
    let made = record.lock().unwrap().clone();
    let place = |what: &str| made.iter().position(|made| made == what).unwrap_or_else(|| panic!("{what}: {made:?}"));
    let (synced, gone) =
        (place("sync the directory workloads/default"), place("rename into place generations/default/.1.retired"));
    assert!(synced < gone, "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_whose_removal_was_not_synced_is_not_taken_for_gone() {
    const LINKS: &str = "workloads/router";
    let is_ill = Arc::new(Mutex::new(false));
    let asked = Arc::clone(&is_ill);
    let (registry, mut node, record) =
        watched(
            LINKS,
            move || {
                if std::mem::take(&mut *asked.lock().unwrap()) { Answer::Fail(Errno::EIO) } else { Answer::Go }
            },
        );
    let image = registry.reference(REPO, "v1");
    let router = format!("[workload.router]\nimage = \"{image}\"\n");
    node.desire(&format!("[workload.default]\nimage = \"{image}\"\n{router}"));
    node.start();
    all(&node, vec![End::Active("default"), End::Active("router")]);
    *is_ill.lock().unwrap() = true;
    record.lock().unwrap().clear();
    node.desire_image(&image);
    node.until_failed("io");
    all(&node, vec![End::Retired("router")]);
    let made = record.lock().unwrap().clone();
    assert!(made.contains(&"sync the directory workloads/router".to_owned()), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_a_killed_agent_named_are_durable_before_a_generation_is_made_of_them() {
    const BLOBS: &str = "cache/blobs/sha256";
    // So many syncs are let pass; before the next, the agent is killed.
    let (plan, killed) = (Arc::new(Mutex::new((0, None))), channel());
    let asked = Arc::clone(&plan);
    let (registry, mut node, record) = watched(BLOBS, move || {
        let mut plan = asked.lock().unwrap();
        let (syncs, end) = &mut *plan;
        *syncs += 1;
        if let Some((pid, _)) = end.take_if(|(_, last)| last == syncs) {
            kill(pid, Signal::SIGKILL).unwrap();
            killed.0.send(()).unwrap();
        }
        Answer::Go
    });
    node.start();
    node.until_activated("nginx:v1");
    plan.lock().unwrap().0 = 0;
    node.desire_image(&registry.reference(REPO, "v2"));
    node.until_activated("nginx:v2");
    let pid = Pid::from_raw(i32::try_from(node.pid()).unwrap());
    let syncs = std::mem::take(&mut plan.lock().unwrap().0);
    plan.lock().unwrap().1 = Some((pid, syncs));
    node.desire_image(&registry.reference(REPO, "v3"));
    killed.1.recv_timeout(PATIENCE).unwrap();
    node.kill();
    record.lock().unwrap().clear();
    node.start();
    all(&node, vec![End::Active("default")]);
    let made = record.lock().unwrap().clone();
    let place = |what: &str| made.iter().position(|made| made == what).unwrap_or_else(|| panic!("{what}: {made:?}"));
    let is_named = |made: &&String| made.starts_with("rename into place cache/blobs/");
    assert_eq!(made.iter().find(is_named), None, "all of them had their names: {made:?}");
    assert!(
        place("sync the directory cache/blobs/sha256") < place("rename into place generations/default/3"),
        "{made:?}"
    );
}
