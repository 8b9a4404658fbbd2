//! What was rolled back is not tried again by itself.

use super::scene::{
    CONFIRM, ONE, Scene, TWO, desired, failure, names, pinned, spec, target, unconfirmed, vm, vm_is_gone, vm_runs,
};
use eci_agent::agent::{Action, Event, Reject};
use eci_agent::desired::Spec;
use eci_agent::failure::{Failure, Kind, Retry};

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
fn a_way_back_that_is_not_whole_any_more_is_not_taken_and_what_was_given_up_stays() {
    let mut scene = Scene::during("Active");
    scene.deploy(unconfirmed(TWO), "two");
    scene.pass(CONFIRM);
    assert_eq!(scene.activity(), "Activating");
    scene.end(Err(Failure { kind: Kind::Damaged, ..failure(Retry::Later) }));
    scene.sleep();
    scene.finish("two");
    assert_eq!((scene.boots(), scene.phase(), scene.trouble().kind), (Some(2), "probation", Kind::Unconfirmed));
    assert_eq!(scene.vm().quarantine.digests(), []);
    scene.send(Event::Confirm(vm()));
    assert_eq!((scene.boots(), scene.phase()), (Some(2), "active"));
}

#[test]
fn what_waited_with_the_same_image_is_dropped_with_it() {
    let mut scene = Scene::during("Active");
    scene.deploy(spec(TWO), "two");
    scene.send(desired([(vm(), Spec { cmdline: Some("quiet".to_owned()), ..spec(TWO) })]));
    while scene.activity() != "Materializing" {
        scene.succeed("two");
    }
    scene.send(Event::RollBack(vm()));
    scene.succeed("two");
    scene.succeed("two");
    assert_eq!((scene.boots(), scene.activity(), scene.vm().staged.clone()), (Some(1), "Blocked", None));
    scene.send(Event::Reconcile(None));
    scene.fail(Retry::Later);
    assert_eq!((scene.boots(), scene.activity()), (Some(1), "Backoff"), "no outage brings it back");
}

#[test]
fn a_person_lets_one_image_be_tried_again_and_not_those_before_it() {
    let mut scene = rolled_back();
    scene.sleep();
    scene.finish("three");
    scene.send(Event::RollBack(vm()));
    scene.finish("three");
    scene.send(Event::Activate(vm()));
    scene.finish("three");
    assert_eq!((scene.boots(), scene.phase()), (Some(4), "active"));
    assert_eq!(scene.vm().quarantine.digests(), [target("two").manifest.digest]);
}

/// `current` of `vm` is found damaged; what ran before is whole.
fn damage(scene: &mut Scene) {
    let previous = scene.vm().previous.clone().map(Box::new);
    scene.send(Event::Found { workload: vm(), current: None, previous });
}

#[test]
fn what_is_damaged_and_cannot_be_made_again_now_gives_way_to_what_ran_before() {
    let mut scene = Scene::during("Active");
    scene.deploy(spec(TWO), "two");
    damage(&mut scene);
    assert_eq!(names(&scene.fail(Retry::Later)), ["Activate"]);
    scene.finish("two");
    assert_eq!((scene.boots(), scene.phase()), (Some(3), "active"), "and once it can be made, it is");
}

#[test]
fn a_person_need_not_wait_for_that() {
    let mut scene = Scene::during("Active");
    scene.deploy(spec(TWO), "two");
    damage(&mut scene);
    assert_eq!(names(&scene.send(Event::RollBack(vm()))), ["Cancel", "Activate"]);
    scene.succeed("two");
    assert_eq!(scene.boots(), Some(1));
}

#[test]
fn what_is_damaged_is_repaired_as_it_is_where_what_is_desired_was_rolled_back() {
    let mut scene = rolled_back();
    damage(&mut scene);
    assert!(scene.succeed("two").contains(&Action::Repair));
    assert_eq!((scene.boots(), scene.activity()), (None, "Blocked"));
    // A repair that comes to its end has all looked at again.
    scene.send(Event::Reconcile(None));
    assert!(!scene.succeed("two").contains(&Action::Repair), "it does not go round and round");
    scene.sleep();
    assert!(scene.succeed("two").contains(&Action::Repair), "but it is tried again");
}
