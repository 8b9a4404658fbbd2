//! What was rolled back is not tried again by itself.

use super::scene::{
    CONFIRM, ONE, Scene, TWO, desired, names, pinned, spec, target, unconfirmed, vm, vm_is_gone, vm_runs,
};
use eci_agent::agent::{Event, Reject};
use eci_agent::desired::Spec;
use eci_agent::failure::Kind;

/// `vm` runs generation 1 again, since generation 2 was rolled back by a person.
fn rolled_back() -> Scene {
    let mut scene = Scene::during("Active");
    scene.deploy(spec(TWO), "two");
    assert_eq!(names(&scene.send(Event::RollBack(vm()))), ["Save", "Activate"]);
    scene.finish("two");
    assert_eq!((scene.boots(), scene.phase(), scene.trouble().kind), (Some(1), "blocked", Kind::Quarantined));
    scene
}

#[test]
fn a_person_gets_back_what_ran_before_and_asking_again_does_not_swap_to_and_fro() {
    let mut scene = rolled_back();
    assert_eq!(scene.send(Event::RollBack(vm())), []);
    assert_eq!(scene.boots(), Some(1));
}

#[test]
fn neither_a_poll_nor_a_restart_nor_a_question_tries_it_again() {
    let mut scene = rolled_back();
    for event in [Event::Reconcile(None), Event::Started, Event::Reconcile(Some(vm()))] {
        scene.send(event);
        scene.finish("two");
        scene.sleep();
        scene.finish("two");
        assert_eq!((scene.boots(), scene.phase()), (Some(1), "blocked"));
    }
}

#[test]
fn how_it_is_to_be_activated_is_no_reason_to_try_it_again() {
    let mut scene = rolled_back();
    scene.deploy(unconfirmed(TWO), "two");
    assert_eq!((scene.boots(), scene.phase()), (Some(1), "blocked"));
}

#[test]
fn another_image_is_tried_and_so_is_the_same_after_it() {
    let mut scene = rolled_back();
    scene.deploy(spec(&pinned(ONE)), "other");
    assert_eq!((scene.boots(), scene.phase()), (Some(3), "active"));
    scene.deploy(spec(TWO), "two");
    assert_eq!((scene.boots(), scene.phase()), (Some(4), "active"));
}

#[test]
fn another_command_line_makes_it_another_generation() {
    let mut scene = rolled_back();
    scene.deploy(Spec { cmdline: Some("quiet".to_owned()), ..spec(TWO) }, "two");
    assert_eq!((scene.boots(), scene.phase()), (Some(3), "active"));
}

#[test]
fn a_tag_that_leads_elsewhere_is_followed_and_one_that_leads_back_is_not() {
    let mut scene = rolled_back();
    scene.sleep();
    scene.finish("three");
    assert_eq!((scene.boots(), scene.phase(), scene.falls_back_to()), (Some(3), "active", Some(1)));
    scene.sleep();
    scene.finish("two");
    assert_eq!((scene.boots(), scene.phase()), (Some(3), "blocked"));
    scene.sleep();
    scene.finish("three");
    assert_eq!((scene.boots(), scene.phase()), (Some(3), "active"));
}

#[test]
fn a_person_can_have_it_tried_again() {
    let mut scene = rolled_back();
    scene.send(Event::Activate(vm()));
    scene.finish("two");
    assert_eq!((scene.boots(), scene.phase(), scene.vm().quarantine.digests().len()), (Some(3), "active", 0));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let why = |scene: &Scene| match scene.rejected(Event::RollBack(vm())) {
        Reject::Refused { why, .. } => why,
        other => panic!("{other}"),
    };
    assert!(why(&Scene::during("Active")).contains("no generation before 1"));
    assert!(why(&Scene::during("Fetching")).contains("nothing runs"));
    assert!(why(&Scene::during("Retiring")).contains("no longer desired"));
    let mut scene = Scene::during("Active");
    scene.deploy(spec(TWO), "two");
    scene.send(vm_runs(ONE));
    while scene.activity() != "Activating" {
        scene.succeed("one");
    }
    assert!(why(&scene).contains("ask again"));
}

#[test]
fn what_is_on_its_way_is_given_up_for_the_way_back() {
    let mut scene = Scene::during("Active");
    scene.deploy(spec(TWO), "two");
    scene.send(desired([(vm(), spec(ONE))]));
    scene.succeed("one");
    assert_eq!(names(&scene.send(Event::RollBack(vm()))), ["Save", "Cancel", "Activate"]);
    scene.succeed("one");
    // It was on its way to another image than the one that was given up.
    assert_eq!((scene.boots(), scene.activity()), (Some(1), "Active"));
}

#[test]
fn while_a_generation_is_laid_out_the_way_back_waits_for_that() {
    let mut scene = Scene::during("Active");
    scene.deploy(spec(TWO), "two");
    scene.send(desired([(vm(), spec(&pinned(ONE)))]));
    while scene.activity() != "Materializing" {
        scene.succeed("three");
    }
    assert_eq!(names(&scene.send(Event::RollBack(vm()))), ["Save"]);
    scene.succeed("three");
    scene.succeed("three");
    assert_eq!(scene.boots(), Some(1));
    scene.finish("three");
    assert_eq!((scene.boots(), scene.vm().last_generation), (Some(3), 3), "what was laid out is not made twice");
}

#[test]
fn a_workload_that_is_retired_takes_no_grudge_with_it() {
    let mut scene = rolled_back();
    scene.send(vm_is_gone());
    scene.send(vm_runs(TWO));
    scene.finish("two");
    assert_eq!((scene.phase(), scene.boots()), ("active", Some(3)));
}

#[test]
fn a_previous_generation_that_was_repaired_is_gone_back_to_at_last() {
    let mut scene = Scene::during("Active");
    scene.deploy(unconfirmed(TWO), "two");
    let previous = scene.vm().previous.clone();
    let current = scene.vm().current.clone().map(Box::new);
    scene.pass(CONFIRM);
    // The swap fails, and what it was to go to is found damaged.
    scene.fail(eci_agent::failure::Retry::Later);
    let found = |previous| Event::Found { workload: vm(), current: current.clone(), previous };
    scene.send(found(None));
    scene.sleep();
    scene.finish("two");
    assert_eq!((scene.boots(), scene.activity()), (Some(2), "Active"), "{:?}", scene.vm());
    assert_eq!(names(&scene.send(found(previous.map(Box::new)))), ["Activate"]);
    scene.finish("two");
    assert_eq!((scene.boots(), scene.vm().quarantine.digests()), (Some(1), vec![target("two").manifest.digest]));
}
