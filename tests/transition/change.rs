//! Something else is desired, in the midst of whatever goes on.

use super::scene::{ACTIVITIES, ONE, Scene, TWO, desired, names, pinned, spec, vm, vm_runs};
use eci_agent::agent::{Action, Outcome, Way};
use eci_agent::desired::Spec;
use eci_agent::failure::Retry;

#[test]
fn another_image_replaces_what_goes_on_or_waits_for_its_end() {
    for activity in ACTIVITIES {
        let mut scene = Scene::during(activity);
        let old = scene.vm().activity.job().map(|job| job.id);
        let actions = scene.send(vm_runs(TWO));
        match activity {
            "Materializing" | "Activating" | "Retiring" => {
                assert_eq!((names(&actions), scene.activity()), (vec!["Save"], activity));
            }
            "Resolving" | "Planning" | "Fetching" | "Verifying" | "Asking" | "Polling" => {
                assert_eq!(names(&actions), ["Save", "Cancel", "Resolve"], "{activity}");
                assert_eq!(actions[1], Action::Cancel { job: old.unwrap() });
                assert_eq!(scene.activity(), "Resolving", "{activity}");
            }
            _ => {
                assert_eq!(names(&actions), ["Save", "Resolve"], "{activity}");
                assert_eq!(scene.activity(), "Resolving", "{activity}");
            }
        }
        scene.finish("two");
        let current = scene.vm().current.as_ref().unwrap();
        assert_eq!((scene.activity(), &current.reference), ("Active", &spec(TWO).reference), "{activity}");
    }
}

#[test]
fn what_was_laid_out_for_another_image_is_not_activated() {
    let mut scene = Scene::during("Materializing");
    scene.send(vm_runs(TWO));
    assert_eq!(names(&scene.succeed("one")), ["Resolve"]);
    assert_eq!((scene.vm().last_generation, scene.boots()), (1, None), "but its number is not used again");
    scene.finish("two");
    assert_eq!(scene.boots(), Some(2));
}

#[test]
fn a_swap_that_goes_on_counts_although_another_image_is_desired() {
    let mut scene = Scene::during("Activating");
    scene.send(vm_runs(TWO));
    assert_eq!(names(&scene.end(Ok(Outcome::Activated))), ["Save", "Resolve"]);
    assert_eq!((scene.activity(), scene.boots()), ("Resolving", Some(1)));
}

#[test]
fn a_step_that_fails_for_an_image_that_nobody_wants_is_no_trouble() {
    for activity in ["Materializing", "Activating"] {
        for retry in [Retry::Never, Retry::Later] {
            let mut scene = Scene::during(activity);
            scene.send(vm_runs(TWO));
            assert_eq!(names(&scene.fail(retry)), ["Resolve"], "{activity}");
            assert_eq!((scene.activity(), &scene.vm().trouble), ("Resolving", &None));
        }
    }
}

#[test]
fn a_command_line_is_reason_for_a_new_generation() {
    let mut scene = Scene::during("Active");
    scene.send(desired([(vm(), Spec { cmdline: Some("quiet".to_owned()), ..spec(ONE) })]));
    scene.finish("one");
    assert_eq!(scene.boots(), Some(2));
}

#[test]
fn trouble_with_the_old_image_is_forgotten() {
    for activity in ["Backoff", "Blocked"] {
        let mut scene = Scene::during(activity);
        scene.send(vm_runs(TWO));
        assert_eq!((scene.vm().trouble.as_ref(), scene.vm().wake_at), (None, None));
    }
}

#[test]
fn a_change_that_is_taken_back_leaves_no_gap_in_what_is_known() {
    for activity in ["Materializing", "Activating"] {
        let mut scene = Scene::new();
        scene.send(vm_runs(&pinned(ONE)));
        while scene.activity() != activity {
            scene.succeed("pinned");
        }
        scene.send(vm_runs(TWO));
        scene.send(vm_runs(&pinned(ONE)));
        scene.finish("pinned");
        assert_eq!((scene.activity(), scene.boots()), ("Active", Some(1)), "{activity}: laid out once");
        let digest = scene.vm().target.as_ref().map(|target| target.manifest.digest);
        assert_eq!(digest, scene.vm().current.as_ref().map(|current| current.digest), "{activity}");
    }
}

#[test]
fn after_a_swap_that_failed_half_way_what_is_desired_is_linked_again() {
    let mut scene = Scene::during("Active");
    scene.send(vm_runs(TWO));
    while scene.activity() != "Activating" {
        scene.succeed("two");
    }
    // It is not known which generation `current` points at now.
    scene.fail(Retry::Later);
    assert_eq!((scene.activity(), scene.boots()), ("Backoff", Some(1)));
    scene.send(vm_runs(ONE));
    let actions = scene.succeed("one");
    assert_eq!(actions, [Action::Activate { workload: vm(), job: 3, generation: 1, previous: None, way: Way::Forth }]);
    scene.succeed("one");
    assert_eq!((scene.activity(), scene.boots(), &scene.vm().previous), ("Active", Some(1), &None));
    scene.sleep();
    assert_eq!(scene.succeed("one"), [], "once is enough");
}
