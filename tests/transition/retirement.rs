//! A workload that a valid file no longer names.

use super::scene::{ACTIVITIES, ONE, Scene, desired, names, spec, sweep, vm, vm_is_gone, vm_runs};
use eci_agent::agent::{Action, Event, Outcome};
use eci_agent::failure::Retry;

#[test]
fn its_links_go_whatever_was_going_on() {
    for activity in ACTIVITIES {
        let mut scene = Scene::during(activity);
        let actions = scene.send(vm_is_gone());
        match activity {
            "Materializing" | "Activating" => {
                assert_eq!((names(&actions), scene.activity()), (vec!["Save"], activity));
            }
            // The file that no longer names it was accepted before.
            "Retiring" => assert_eq!((actions, scene.activity()), (vec![], activity)),
            "Resolving" | "Planning" | "Fetching" | "Verifying" | "Asking" | "Polling" => {
                assert_eq!(names(&actions), ["Save", "Cancel", "Retire"], "{activity}");
            }
            _ => assert_eq!(names(&actions), ["Save", "Retire"], "{activity}"),
        }
        scene.finish("one");
        assert!(scene.state.workloads.is_empty(), "{activity}");
    }
}

#[test]
fn it_is_forgotten_once_its_links_are_gone() {
    let mut scene = Scene::during("Retiring");
    assert_eq!(scene.end(Ok(Outcome::Retired)), [Action::Save, sweep(&[])]);
    assert!(scene.state.workloads.is_empty());
}

#[test]
fn what_was_laid_out_for_it_is_not_activated() {
    let mut scene = Scene::during("Materializing");
    scene.send(vm_is_gone());
    assert_eq!(names(&scene.succeed("one")), ["Retire"]);
}

#[test]
fn named_again_meanwhile_it_begins_anew_with_numbers_that_go_on() {
    let mut scene = Scene::during("Retiring");
    assert_eq!(names(&scene.send(vm_runs(ONE))), ["Save"], "the removal is not interrupted");
    assert_eq!(names(&scene.end(Ok(Outcome::Retired))), ["Resolve"]);
    assert_eq!((scene.activity(), scene.boots()), ("Resolving", None));
    scene.finish("one");
    assert_eq!((scene.boots(), &scene.vm().previous), (Some(2), &None));
}

#[test]
fn named_again_and_given_up_again_it_goes() {
    let mut scene = Scene::during("Retiring");
    scene.send(vm_runs(ONE));
    scene.send(vm_is_gone());
    scene.succeed("one");
    assert!(scene.state.workloads.is_empty());
}

#[test]
fn a_removal_that_failed_is_tried_again() {
    for retry in [Retry::Later, Retry::Never] {
        let mut scene = Scene::during("Retiring");
        scene.fail(retry);
        assert_eq!(names(&scene.sleep()), ["Retire"], "{retry:?}");
    }
    // Another reading that does not name it either is as good a moment.
    let mut scene = Scene::during("Retiring");
    scene.fail(Retry::Later);
    assert_eq!(names(&scene.send(desired([("other".parse().unwrap(), spec(ONE))]))), ["Save", "Retire", "Resolve"]);
}

#[test]
fn a_removal_that_failed_is_tried_again_when_someone_asks() {
    for whom in [None, Some(vm())] {
        let mut scene = Scene::during("Retiring");
        scene.fail(Retry::Never);
        assert_eq!(names(&scene.send(Event::Reconcile(whom))), ["Retire"]);
    }
}

#[test]
fn named_again_after_a_removal_that_failed_half_way_its_links_are_made_again() {
    // Named again while the removal goes on, and after it failed.
    for names_before in [true, false] {
        let mut scene = Scene::during("Retiring");
        if names_before {
            scene.send(vm_runs(ONE));
            scene.fail(Retry::Later);
        } else {
            scene.fail(Retry::Later);
            scene.send(vm_runs(ONE));
        }
        assert_eq!(scene.activity(), "Resolving");
        assert_eq!(names(&scene.succeed("one")), ["Activate"]);
        scene.succeed("one");
        assert_eq!((scene.activity(), scene.boots()), ("Active", Some(1)));
    }
}

#[test]
fn without_a_desired_state_what_has_links_stays_as_it_is() {
    let mut scene = Scene::restored(None);
    for event in [Event::Tick, Event::Reconcile(None), Event::Reconcile(Some(vm()))] {
        assert_eq!(scene.send(event), []);
    }
    assert_eq!(scene.boots(), Some(1));
    // The first that is accepted decides.
    assert_eq!(names(&scene.clone().send(vm_is_gone())), ["Save", "Retire"]);
    assert_eq!(names(&scene.send(vm_runs(ONE))), ["Save", "Resolve"]);
    assert_eq!(scene.succeed("one"), [sweep(&[])]);
    assert_eq!((scene.activity(), scene.boots()), ("Active", Some(1)));
}

#[test]
fn named_again_later_its_numbers_go_on_as_well() {
    let mut scene = Scene::during("Active");
    scene.send(vm_is_gone());
    scene.finish("one");
    scene.send(vm_runs(ONE));
    scene.finish("one");
    assert_eq!(scene.boots(), Some(2));
    assert!(scene.state.retired.is_empty(), "what the workload says is not said twice");
}
