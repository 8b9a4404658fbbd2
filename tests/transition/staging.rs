//! What is ready waits for whoever is to let it pass: a person, the window, or both.

use std::time::Duration;

use super::scene::{INITIAL, ONE, POLL, Scene, TWO, desired, names, pinned, spec, staged, vm};
use eci_agent::agent::{Action, Event, Reject, Way};
use eci_agent::failure::Retry;

const HOUR: Duration = Duration::from_secs(3600);

/// `vm` boots generation 1, and generation 2 waits for a person.
fn waiting() -> Scene {
    let mut scene = Scene::during("Active");
    scene.deploy(staged(TWO), "two");
    assert_eq!((scene.phase(), scene.boots()), ("staged", Some(1)));
    scene
}

fn approve(scene: &mut Scene) -> Vec<Action> {
    scene.send(Event::Activate(vm()))
}

#[test]
fn what_is_staged_is_saved_and_waits_for_a_person() {
    let mut scene = Scene::during("Active");
    scene.send(desired([(vm(), staged(TWO))]));
    while scene.activity() != "Materializing" {
        scene.succeed("two");
    }
    assert_eq!(names(&scene.succeed("two"))[0], "Save");
    assert_eq!((scene.phase(), scene.boots(), scene.sleeps()), ("staged", Some(1), Some(POLL)));
    let swap = Action::Activate { workload: vm(), job: 3, generation: 2, previous: Some(1), way: Way::Forth };
    assert_eq!(approve(&mut scene), [Action::Save, swap]);
    scene.finish("two");
    assert_eq!((scene.phase(), scene.boots(), scene.falls_back_to()), ("active", Some(2), Some(1)));
    assert_eq!(approve(&mut scene), [], "asked again, it has been done");
}

#[test]
fn looking_at_the_tag_again_leaves_what_waits() {
    let mut scene = waiting();
    assert_eq!(names(&scene.sleep()), ["Resolve"]);
    assert_eq!(scene.phase(), "staged");
    assert_eq!(names(&scene.succeed("two")), [] as [&str; 0], "nothing new is saved");
    assert_eq!((scene.activity(), scene.boots()), ("Staged", Some(1)));
}

#[test]
fn a_tag_that_moved_replaces_what_waits_and_the_new_one_waits_as_well() {
    let mut scene = waiting();
    approve(&mut scene);
    scene.finish("two");
    scene.sleep();
    scene.finish("three");
    assert_eq!((scene.phase(), scene.boots()), ("staged", Some(2)));
    scene.sleep();
    scene.finish("four");
    let staged = scene.vm().staged.as_ref().unwrap().number;
    assert_eq!((staged, scene.boots(), scene.falls_back_to()), (4, Some(2), Some(1)));
}

#[test]
fn what_was_let_pass_is_one_generation_and_no_later_one() {
    let mut scene = waiting();
    scene.context.opens_in = Some(HOUR);
    approve(&mut scene);
    scene.sleep();
    scene.finish("three");
    scene.context.opens_in = None;
    scene.send(Event::Tick);
    assert_eq!((scene.phase(), scene.boots()), ("staged", Some(1)), "nobody has seen that one");
}

#[test]
fn nothing_is_let_pass_before_it_is_there() {
    for activity in ["Resolving", "Planning", "Fetching", "Verifying", "Materializing", "Backoff", "Blocked"] {
        let scene = Scene::during(activity);
        assert!(matches!(scene.rejected(Event::Activate(vm())), Reject::Refused { .. }), "{activity}");
    }
}

#[test]
fn outside_the_window_everything_waits_and_at_its_time_it_goes_on_by_itself() {
    let mut scene = Scene::during("Active");
    scene.context.opens_in = Some(HOUR);
    scene.context.policy.poll = None;
    scene.deploy(spec(TWO), "two");
    assert_eq!((scene.phase(), scene.boots(), scene.sleeps()), ("staged", Some(1), Some(HOUR)));
    scene.context.opens_in = None;
    assert_eq!(names(&scene.pass(HOUR)), ["Activate"], "no registry is asked first");
    scene.finish("two");
    assert_eq!((scene.phase(), scene.boots()), ("active", Some(2)));
}

#[test]
fn the_first_image_waits_for_the_window_too() {
    let mut scene = Scene::new();
    scene.context.opens_in = Some(HOUR);
    scene.deploy(spec(ONE), "one");
    assert_eq!((scene.phase(), scene.boots()), ("staged", None));
}

#[test]
fn a_person_and_the_window_both_have_to_let_it_pass() {
    let mut scene = waiting();
    scene.context.opens_in = Some(HOUR);
    assert_eq!(approve(&mut scene), [Action::Save]);
    assert_eq!((scene.phase(), scene.boots()), ("staged", Some(1)));
    assert!(scene.sleeps().unwrap() <= HOUR);
    scene.context.opens_in = None;
    scene.pass(HOUR);
    scene.finish("two");
    assert_eq!(scene.boots(), Some(2));
}

#[test]
fn a_window_that_opens_while_no_registry_answers_is_used() {
    let mut scene = Scene::during("Active");
    scene.context.opens_in = Some(HOUR);
    scene.deploy(spec(TWO), "two");
    scene.sleep();
    scene.fail(Retry::Later);
    assert_eq!((scene.activity(), scene.sleeps()), ("Backoff", Some(INITIAL / 2)));
    scene.context.opens_in = None;
    scene.sleep();
    assert_eq!(names(&scene.fail(Retry::Later)), ["Activate"]);
    scene.finish("two");
    assert_eq!(scene.boots(), Some(2));
}

#[test]
fn an_image_that_was_withdrawn_is_not_activated_by_the_window() {
    let mut scene = Scene::during("Active");
    scene.context.opens_in = Some(HOUR);
    scene.deploy(spec(TWO), "two");
    scene.sleep();
    scene.context.opens_in = None;
    scene.fail(Retry::Never);
    assert_eq!((scene.activity(), scene.boots(), scene.sleeps()), ("Blocked", Some(1), Some(POLL)));
}

#[test]
fn a_clock_that_is_set_has_the_window_looked_at() {
    let mut scene = Scene::during("Active");
    scene.context.opens_in = Some(HOUR);
    scene.deploy(spec(TWO), "two");
    scene.context.opens_in = None;
    assert_eq!(names(&scene.send(Event::ClockSet)), ["Activate"]);
}

#[test]
fn what_waits_is_dropped_where_another_image_is_desired_and_not_where_it_need_not_wait() {
    let mut scene = waiting();
    scene.send(desired([(vm(), spec(TWO))]));
    scene.finish("two");
    assert_eq!((scene.boots(), scene.vm().last_generation), (Some(2), 2), "it is the one that waited");
    let mut scene = waiting();
    scene.deploy(spec(&pinned(ONE)), "one");
    assert_eq!((scene.boots(), scene.vm().staged.clone()), (Some(3), None));
}

#[test]
fn what_takes_the_place_of_a_damaged_generation_waits_for_nobody() {
    let mut scene = waiting();
    approve(&mut scene);
    scene.finish("two");
    scene.context.opens_in = Some(HOUR);
    scene.send(Event::Found { workload: vm(), current: None, previous: None });
    scene.finish("two");
    assert_eq!((scene.phase(), scene.boots()), ("active", Some(3)));
}

#[test]
fn after_a_restart_what_waits_is_activated_without_a_registry_once_it_may_be() {
    let mut scene = waiting();
    let waits = scene.vm().staged.clone();
    scene.context.opens_in = Some(HOUR);
    approve(&mut scene);
    let mut restarted = Scene::restored(None);
    restarted.state.accepted = scene.state.accepted;
    let vm = restarted.state.workloads.get_mut(&vm()).unwrap();
    (vm.spec, vm.staged, vm.approved) = (Some(staged(TWO)), waits, scene.vm().approved);
    vm.wake_at = Some(Duration::ZERO);
    assert_eq!(names(&restarted.send(Event::Tick)), ["Activate"]);
}

#[test]
fn another_image_that_comes_instead_of_a_repair_waits_like_any() {
    let mut scene = waiting();
    approve(&mut scene);
    scene.finish("two");
    scene.send(Event::Found { workload: vm(), current: None, previous: None });
    scene.finish("moved");
    assert_eq!((scene.phase(), scene.boots()), ("staged", None));
}

#[test]
fn what_is_not_desired_any_more_is_forgotten_for_good() {
    let mut scene = Scene::during("Active");
    scene.context.opens_in = Some(HOUR);
    scene.sleep();
    scene.finish("two");
    assert_eq!(scene.phase(), "staged");
    scene.sleep();
    assert_eq!(names(&scene.succeed("one")), ["Save"], "a restart must not find it");
    assert_eq!((scene.phase(), scene.vm().staged.clone()), ("active", None));
}

#[test]
fn another_platform_is_another_generation() {
    let mut scene = waiting();
    let arm = eci_agent::desired::Spec { platform: Some("linux/arm64".parse().unwrap()), ..spec(TWO) };
    assert!(!scene.vm().staged.as_ref().unwrap().suits(&arm));
    scene.send(desired([(vm(), arm)]));
    assert_eq!(names(&scene.fail(Retry::Later)), ["Sweep"], "what waited is not it");
}
