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
    let announce = |generation, way| Action::Announce { workload: vm(), generation, way };
    assert!(swap(&mut scene).contains(&announce(2, Way::Forth)));
    assert_eq!(report(&mut scene, true), [Action::Save]);
    scene.pass(CONFIRM);
    assert!(scene.succeed("two").contains(&announce(1, Way::Back)));
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
