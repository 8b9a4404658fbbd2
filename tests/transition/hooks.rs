//! The hooks after an activation are run once for each generation, whatever ends the agent meanwhile.

use super::scene::{CONFIRM, Scene, TWO, failure, names, unconfirmed, vm};
use eci_agent::agent::{Action, Event, Way};
use eci_agent::failure::Retry;

fn announced() -> Scene {
    let mut scene = Scene::during("Active");
    scene.context.policy.announces = true;
    scene
}

fn swap(scene: &mut Scene) -> Vec<Action> {
    while scene.activity() != "Activating" {
        scene.succeed("two");
    }
    scene.succeed("two")
}

fn report(scene: &mut Scene, is_well: bool) -> Vec<Action> {
    let result = if is_well { Ok(()) } else { Err(failure(Retry::Later)) };
    scene.send(Event::Announced { workload: vm(), generation: scene.boots().unwrap(), result })
}

#[test]
fn they_follow_the_swap_and_that_they_were_run_is_saved() {
    let mut scene = announced();
    scene.send(super::scene::desired([(vm(), unconfirmed(TWO))]));
    let announce = |generation, replaced, way| Action::Announce { workload: vm(), generation, replaced, way };
    assert!(swap(&mut scene).contains(&announce(2, Some(1), Way::Forth)));
    assert_eq!(report(&mut scene, true), [Action::Save]);
    scene.pass(CONFIRM);
    assert!(scene.succeed("two").contains(&announce(1, Some(2), Way::Back)));
}

#[test]
fn what_a_crash_has_kept_from_being_run_is_run_at_the_next_start_and_only_that() {
    let mut scene = announced();
    scene.send(super::scene::vm_runs(TWO));
    swap(&mut scene);
    assert_eq!(names(&scene.send(Event::Started)), ["Announce"]);
    report(&mut scene, true);
    assert_eq!(scene.send(Event::Started), []);
}

#[test]
fn that_one_failed_is_said_and_undoes_nothing() {
    let mut scene = announced();
    scene.send(super::scene::vm_runs(TWO));
    swap(&mut scene);
    report(&mut scene, false);
    assert_eq!((scene.boots(), scene.phase()), (Some(2), "active"));
    assert_eq!(scene.trouble().kind, failure(Retry::Later).kind);
}

/// A hook is asked whether generation 2 may be activated.
fn asked() -> Scene {
    let mut scene = Scene::during("Active");
    scene.context.policy.asks = true;
    scene.send(super::scene::vm_runs(TWO));
    while scene.activity() != "Asking" {
        scene.succeed("two");
    }
    scene
}

#[test]
fn a_hook_is_asked_before_anything_new_and_its_veto_leaves_the_links_as_they_are() {
    let mut scene = asked();
    assert_eq!((scene.phase(), scene.boots()), ("activating", Some(1)));
    scene.fail(Retry::Later);
    assert_eq!((scene.activity(), scene.vm().links_in_doubt), ("Backoff", false));
    scene.sleep();
    assert_eq!(names(&scene.succeed("two")), ["Save", "Ask"], "it is asked again, and nothing is laid out twice");
    assert_eq!(names(&scene.succeed("two")), ["Activate"]);
}

#[test]
fn a_hook_that_thinks_about_it_is_not_waited_for_where_something_else_is_to_be_done() {
    let mut scene = asked();
    assert_eq!(names(&scene.send(super::scene::vm_runs(super::scene::ONE))), ["Save", "Cancel", "Resolve"]);
    let mut scene = Scene::during("Active");
    scene.deploy(unconfirmed(TWO), "two");
    scene.context.policy.asks = true;
    scene.sleep_to_poll();
    while scene.activity() != "Asking" {
        scene.succeed("three");
    }
    assert_eq!(names(&scene.pass(CONFIRM)), ["Save", "Cancel", "Activate"], "the way back waits for nobody");
}

#[test]
fn a_window_that_has_closed_meanwhile_is_closed() {
    let mut scene = asked();
    scene.context.opens_in = Some(CONFIRM);
    scene.succeed("two");
    assert_eq!((scene.activity(), scene.boots()), ("Staged", Some(1)));
}

#[test]
fn no_hook_has_a_say_in_a_repair() {
    let mut scene = Scene::during("Active");
    scene.context.policy.asks = true;
    scene.send(Event::Found { workload: vm(), current: None, previous: None });
    while scene.activity() != "Materializing" {
        scene.succeed("one");
    }
    assert_eq!(names(&scene.succeed("one")), ["Activate"]);
}
