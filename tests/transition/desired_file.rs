//! The desired-state file as it is read: accepted, rejected, or the same as before.

use super::scene::{ACTIVITIES, ONE, Scene, TWO, desired, names, spec, vm, vm_is_gone, vm_runs};
use eci_agent::agent::{Accepted, Action, Event};
use eci_agent::failure::{Failure, Kind, Retry};
use jiff::{Timestamp, ToSpan};

fn broken(kind: Kind, message: &str) -> Event {
    Event::Desired(Err(Failure { kind, message: message.to_owned(), retry: Retry::Never }))
}

#[test]
fn a_file_that_is_wrong_changes_nothing_but_what_is_said_of_it() {
    for activity in ACTIVITIES {
        let mut scene = Scene::during(activity);
        let before = scene.state.clone();
        assert_eq!(scene.send(broken(Kind::DesiredInvalid, "line 3")), [], "{activity}");
        let rejected = scene.state.rejected.take().unwrap();
        assert_eq!(
            (rejected.kind, rejected.message.as_str(), rejected.retry_at),
            (Kind::DesiredInvalid, "line 3", None)
        );
        assert_eq!(scene.state, before, "{activity}");
    }
}

#[test]
fn the_same_complaint_is_made_once() {
    let mut scene = Scene::during("Active");
    let hour = |n: i64| Timestamp::UNIX_EPOCH + n.hours();
    for (n, kind, message, since, attempts) in [
        (1, Kind::DesiredInvalid, "line 3", 1, 1),
        (2, Kind::DesiredInvalid, "line 3", 1, 1),
        (3, Kind::DesiredInvalid, "line 4", 1, 2),
        (4, Kind::DesiredAbsent, "there is none", 4, 3),
    ] {
        scene.context.wall = hour(n);
        scene.send(broken(kind, message));
        let rejected = scene.state.rejected.as_ref().unwrap();
        assert_eq!((rejected.message.as_str(), rejected.since, rejected.attempts), (message, hour(since), attempts));
    }
}

#[test]
fn the_same_bytes_change_nothing() {
    for activity in ACTIVITIES {
        let mut scene = Scene::during(activity);
        // Named once more with another image, so that every activity begins from a file that was read.
        scene.send(vm_runs(TWO));
        scene.context.wall = Timestamp::UNIX_EPOCH + 1.hour();
        let before = scene.state.clone();
        assert_eq!(scene.send(vm_runs(TWO)), [], "{activity}");
        assert_eq!(scene.state, before, "{activity}");
        scene.send(broken(Kind::DesiredInvalid, "line 3"));
        assert_eq!(scene.send(vm_runs(TWO)), [], "{activity}");
        assert_eq!(scene.state, before, "{activity}: mended, it is as if nothing had been");
    }
}

#[test]
fn other_bytes_that_say_the_same_leave_what_goes_on() {
    for activity in ACTIVITIES.into_iter().filter(|activity| *activity != "Retiring") {
        let mut scene = Scene::during(activity);
        let same = desired([(vm(), scene.vm().spec.clone().unwrap())]);
        let Event::Desired(Ok(mut reading)) = same else { unreachable!() };
        reading.sha256 = eci_agent::oci::Digest::of(b"with a comment");
        let before = scene.vm().clone();
        assert_eq!(scene.send(Event::Desired(Ok(reading.clone()))), [Action::Save], "{activity}");
        assert_eq!(*scene.vm(), before, "{activity}");
        assert_eq!(scene.state.accepted, Some(Accepted { sha256: reading.sha256, at: scene.context.wall }));
    }
}

#[test]
fn what_is_accepted_is_saved_before_anything_is_done_about_it() {
    for activity in ACTIVITIES {
        for event in [vm_runs(TWO), vm_is_gone(), desired([("other".parse().unwrap(), spec(ONE))])] {
            let mut scene = Scene::during(activity);
            let actions = names(&scene.send(event));
            let saves = actions.iter().filter(|action| **action == "Save").count();
            assert!(actions.is_empty() || (actions[0] == "Save" && saves == 1), "{activity}: {actions:?}");
        }
    }
}

#[test]
fn workloads_do_not_disturb_each_other() {
    for activity in ACTIVITIES.into_iter().filter(|activity| *activity != "Retiring") {
        let mut scene = Scene::during(activity);
        let before = scene.vm().clone();
        let same = scene.vm().spec.clone().unwrap();
        let actions = scene.send(desired([(vm(), same), ("other".parse().unwrap(), spec(TWO))]));
        assert_eq!(names(&actions), ["Save", "Resolve"], "{activity}");
        assert_eq!(*scene.vm(), before, "{activity}");
    }
}
