//! Checks of what runs: they confirm it, and go on after that.

use std::time::Duration;

use super::scene::{CONFIRM, HEALTHY_AFTER, Scene, THRESHOLD, TWO, spec, unconfirmed, vm};
use eci_agent::agent::Event;

const SECOND: Duration = Duration::from_secs(1);

fn on_probation() -> Scene {
    let mut scene = Scene::during("Active");
    scene.deploy(unconfirmed(TWO), "two");
    scene
}

fn check(scene: &mut Scene, is_well: bool) {
    let result = if is_well { Ok(()) } else { Err("connection refused".to_owned()) };
    scene.send(Event::Checked { workload: vm(), generation: scene.boots().unwrap(), result });
}

#[test]
fn what_is_healthy_for_long_enough_is_confirmed() {
    let mut scene = on_probation();
    check(&mut scene, false);
    check(&mut scene, true);
    scene.pass(HEALTHY_AFTER - SECOND);
    check(&mut scene, true);
    assert_eq!(scene.phase(), "probation");
    scene.pass(SECOND);
    check(&mut scene, true);
    assert_eq!(scene.phase(), "active");
}

#[test]
fn each_failure_begins_the_time_anew() {
    let mut scene = on_probation();
    for _ in 0..5 {
        check(&mut scene, true);
        scene.pass(HEALTHY_AFTER - SECOND);
        check(&mut scene, false);
        scene.pass(SECOND);
        check(&mut scene, true);
        assert_eq!(scene.phase(), "probation", "what comes and goes is not confirmed");
        assert_eq!(scene.vm().health.is_healthy, Some(true), "but one failure is not called ill");
    }
}

#[test]
fn what_never_comes_up_is_rolled_back_by_its_time() {
    let mut scene = on_probation();
    for _ in 0..10 {
        check(&mut scene, false);
        scene.pass(CONFIRM / 10);
    }
    scene.finish("two");
    assert_eq!((scene.boots(), scene.phase()), (Some(1), "blocked"));
}

#[test]
fn what_fails_later_is_said_and_not_rolled_back() {
    let mut scene = Scene::during("Active");
    scene.deploy(spec(TWO), "two");
    check(&mut scene, true);
    for _ in 0..2 * THRESHOLD {
        check(&mut scene, false);
    }
    assert_eq!((scene.boots(), scene.phase()), (Some(2), "active"));
    let health = &scene.vm().health;
    assert_eq!((health.failures, health.is_healthy), (2 * THRESHOLD, Some(false)));
    assert_eq!(health.message.as_deref(), Some("connection refused"));
}

#[test]
fn a_check_of_another_generation_says_nothing_of_this_one() {
    let mut scene = on_probation();
    scene.send(Event::Checked { workload: vm(), generation: 1, result: Ok(()) });
    assert_eq!(scene.vm().health.checked_at, None);
    check(&mut scene, true);
    scene.send(Event::Reconcile(None));
    scene.finish("three");
    assert_eq!(scene.vm().health.checked_at, None, "a new generation begins anew");
}
