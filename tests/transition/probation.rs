//! A new generation has to be confirmed in time.

use std::time::Duration;

use super::scene::{ATTEMPTS, CONFIRM, ONE, POLL, Scene, TWO, boot, desired, names, target, unconfirmed, vm, vm_runs};
use eci_agent::agent::{Action, Event, Reject, Way};
use eci_agent::failure::{Kind, Retry};

/// `vm` has booted generation 1, and generation 2 has to be confirmed.
fn on_probation() -> Scene {
    let mut scene = Scene::during("Active");
    scene.deploy(unconfirmed(TWO), "two");
    assert_eq!((scene.phase(), scene.boots(), scene.falls_back_to()), ("probation", Some(2), Some(1)));
    scene
}

fn confirm(scene: &mut Scene) -> Vec<Action> {
    scene.send(Event::Confirm(vm()))
}

/// The agent has been killed and is started again, in the same state of the disk.
fn restart(scene: &mut Scene) -> Vec<Action> {
    let workload = scene.state.workloads.get_mut(&vm()).unwrap();
    workload.activity = eci_agent::agent::Activity::Idle;
    workload.wake_at = Some(Duration::ZERO);
    workload.target = None;
    scene.send(Event::Started)
}

#[test]
fn that_it_has_to_be_confirmed_is_saved_before_it_is_current() {
    let mut scene = Scene::during("Active");
    scene.send(desired([(vm(), unconfirmed(TWO))]));
    while scene.activity() != "Materializing" {
        scene.succeed("two");
    }
    assert_eq!(names(&scene.succeed("two")), ["Save", "Activate"]);
    assert!(scene.vm().probations.contains_key(&2), "a crash after the swap finds it");
}

#[test]
fn what_is_confirmed_in_time_stays() {
    let mut scene = on_probation();
    scene.pass(CONFIRM - Duration::from_secs(1));
    assert_eq!(confirm(&mut scene), [Action::Save]);
    scene.pass(CONFIRM);
    scene.finish("two");
    assert_eq!((scene.phase(), scene.boots(), scene.falls_back_to()), ("active", Some(2), Some(1)));
    assert_eq!(confirm(&mut scene), [], "asked again, it has been done");
}

#[test]
fn what_is_not_confirmed_in_time_is_left_for_what_ran_before_without_any_network() {
    let mut scene = on_probation();
    let swap = Action::Activate { workload: vm(), job: 3, generation: 1, previous: None, way: Way::Back };
    assert_eq!(scene.pass(CONFIRM), [Action::Save, swap]);
    scene.finish("two");
    assert_eq!((scene.phase(), scene.boots(), scene.falls_back_to()), ("blocked", Some(1), None));
    assert_eq!(scene.trouble().kind, Kind::Quarantined);
    assert!(scene.trouble().message.contains("it was not confirmed within 600 s"), "{}", scene.trouble().message);
    assert_eq!(scene.vm().quarantine.digests(), [target("two").manifest.digest]);
    assert!(matches!(scene.rejected(Event::RollBack("x".parse().unwrap())), Reject::UnknownWorkload(_)));
}

#[test]
fn the_time_runs_while_something_else_goes_on() {
    let mut scene = on_probation();
    scene.sleep_to_poll();
    assert_eq!((scene.activity(), scene.phase()), ("Polling", "probation"));
    scene.succeed("three");
    scene.succeed("three");
    assert_eq!(scene.activity(), "Fetching");
    assert_eq!(names(&scene.pass(CONFIRM)), ["Save", "Cancel", "Activate"]);
    scene.succeed("three");
    assert_eq!((scene.boots(), scene.activity()), (Some(1), "Planning"), "and then on to what is desired now");
}

#[test]
fn while_the_disk_is_being_changed_it_is_put_off_until_that_has_ended() {
    let mut scene = on_probation();
    scene.sleep_to_poll();
    while scene.activity() != "Materializing" {
        scene.succeed("three");
    }
    assert_eq!(scene.pass(CONFIRM), []);
    assert_eq!(scene.state.next_wake(), None, "nothing is waited for but the end of the step");
    scene.succeed("three");
    // The newer image replaces it before it could be given up.
    assert_eq!(scene.activity(), "Activating");
    scene.succeed("three");
    assert_eq!((scene.boots(), scene.falls_back_to(), scene.phase()), (Some(3), Some(1), "probation"));
}

#[test]
fn however_many_updates_come_the_last_confirmed_generation_is_what_is_gone_back_to() {
    let mut scene = on_probation();
    for (number, content) in [(3, "three"), (4, "four"), (5, "five")] {
        scene.sleep_to_poll();
        scene.finish(content);
        assert_eq!((scene.boots(), scene.falls_back_to()), (Some(number), Some(1)));
    }
    scene.pass(CONFIRM);
    scene.finish("five");
    assert_eq!(scene.boots(), Some(1));
}

#[test]
fn the_time_is_that_of_the_newest_generation() {
    let mut scene = on_probation();
    scene.pass(CONFIRM / 2);
    scene.send(Event::Reconcile(None));
    scene.finish("three");
    assert_eq!(scene.boots(), Some(3));
    scene.pass(CONFIRM / 2);
    assert_eq!(scene.boots(), Some(3));
    scene.pass(CONFIRM / 2);
    scene.finish("three");
    assert_eq!(scene.boots(), Some(1));
}

#[test]
fn a_clock_that_was_set_changes_nothing() {
    let mut scene = on_probation();
    scene.context.wall = "2099-01-01T00:00:00Z".parse().unwrap();
    scene.send(Event::ClockSet);
    scene.pass(CONFIRM / 2);
    assert_eq!((scene.boots(), scene.phase()), (Some(2), "probation"));
}

#[test]
fn a_restart_of_the_agent_neither_prolongs_nor_ends_the_time() {
    let mut scene = on_probation();
    scene.pass(CONFIRM / 2);
    assert_eq!(names(&restart(&mut scene)), ["Save"]);
    assert_eq!(scene.vm().probation().unwrap().restarts, 1);
    scene.pass(CONFIRM / 2 - Duration::from_secs(1));
    scene.finish("two");
    assert_eq!((scene.boots(), scene.phase()), (Some(2), "probation"));
    scene.pass(Duration::from_secs(1));
    scene.finish("two");
    assert_eq!(scene.boots(), Some(1));
}

#[test]
fn a_reboot_begins_the_time_anew_since_nobody_knows_how_long_the_machine_was_off() {
    let mut scene = on_probation();
    scene.pass(CONFIRM / 2);
    (scene.context.boot, scene.context.now) = (boot(2), Duration::from_secs(5));
    restart(&mut scene);
    scene.send(Event::Tick);
    scene.finish("two");
    scene.pass(CONFIRM - Duration::from_secs(1));
    scene.finish("two");
    assert_eq!((scene.boots(), scene.phase()), (Some(2), "probation"));
    scene.pass(Duration::from_secs(1));
    scene.finish("two");
    assert_eq!(scene.boots(), Some(1));
}

#[test]
fn so_many_starts_and_no_more() {
    let mut scene = on_probation();
    for n in 1..=ATTEMPTS {
        assert_eq!(scene.boots(), Some(2), "start {n}");
        scene.context.boot = boot(1 + u8::try_from(n).unwrap());
        restart(&mut scene);
    }
    assert_eq!(scene.activity(), "Activating");
    scene.finish("two");
    scene.send(Event::Tick);
    scene.finish("two");
    assert_eq!((scene.boots(), scene.activity()), (Some(1), "Blocked"));
    assert!(scene.trouble().message.contains("started 3 times"), "{}", scene.trouble().message);
}

#[test]
fn a_way_back_that_was_interrupted_is_taken_after_the_restart() {
    let mut scene = on_probation();
    scene.pass(CONFIRM);
    // Killed before the links were swapped.
    restart(&mut scene);
    assert_eq!(names(&scene.send(Event::Tick)), ["Activate"]);
    scene.finish("two");
    assert_eq!(scene.boots(), Some(1));
}

#[test]
fn a_way_back_that_fails_is_tried_again() {
    let mut scene = on_probation();
    scene.pass(CONFIRM);
    scene.fail(Retry::Later);
    assert_eq!((scene.activity(), scene.boots()), ("Backoff", Some(2)));
    assert_eq!(names(&scene.sleep()), ["Activate"]);
    scene.finish("two");
    assert_eq!(scene.boots(), Some(1));
}

#[test]
fn where_there_is_nothing_to_go_back_to_it_stays_and_somebody_is_told() {
    let mut scene = Scene::new();
    scene.deploy(unconfirmed(ONE), "one");
    assert_eq!(scene.phase(), "probation");
    assert_eq!(names(&scene.pass(CONFIRM)), ["Save"]);
    assert_eq!((scene.phase(), scene.boots(), scene.trouble().kind), ("probation", Some(1), Kind::Unconfirmed));
    assert!(scene.state.next_wake().is_some_and(|at| at > scene.context.now), "it does not go round and round");
    scene.pass(POLL);
    scene.finish("one");
    assert_eq!(scene.trouble().kind, Kind::Unconfirmed, "a poll does not make it right");
    confirm(&mut scene);
    assert_eq!((scene.phase(), scene.vm().trouble.clone()), ("active", None));
}

#[test]
fn what_is_being_given_up_or_replaced_cannot_be_confirmed() {
    let mut scene = on_probation();
    scene.pass(CONFIRM);
    assert!(matches!(scene.rejected(Event::Confirm(vm())), Reject::Refused { .. }));
    let mut scene = on_probation();
    scene.send(vm_runs(ONE));
    while scene.activity() != "Activating" {
        scene.succeed("one");
    }
    assert!(matches!(scene.rejected(Event::Confirm(vm())), Reject::Refused { .. }));
    assert!(matches!(Scene::during("Fetching").rejected(Event::Confirm(vm())), Reject::Refused { .. }));
}

#[test]
fn a_repair_of_what_was_confirmed_has_not_to_be_confirmed_and_one_of_what_was_not_has() {
    for (confirmed, phase) in [(true, "active"), (false, "probation")] {
        let mut scene = on_probation();
        if confirmed {
            confirm(&mut scene);
        }
        scene.send(Event::Found { workload: vm(), current: None, previous: None });
        scene.finish("two");
        assert_eq!((scene.boots(), scene.phase()), (Some(3), phase));
    }
}

#[test]
fn what_need_not_be_confirmed_any_more_is_final_although_an_earlier_try_was_not() {
    let mut scene = Scene::during("Active");
    scene.send(desired([(vm(), unconfirmed(TWO))]));
    while scene.activity() != "Activating" {
        scene.succeed("two");
    }
    scene.fail(Retry::Later);
    scene.deploy(super::scene::spec(TWO), "two");
    assert_eq!((scene.boots(), scene.phase(), scene.vm().probations.len()), (Some(2), "active", 0));
}

#[test]
fn a_repair_of_what_has_to_be_confirmed_has_the_time_that_was_left_and_the_starts_that_were() {
    let mut scene = on_probation();
    restart(&mut scene);
    scene.send(Event::Tick);
    scene.finish("two");
    scene.pass(CONFIRM / 2);
    scene.finish("two");
    scene.send(Event::Found { workload: vm(), current: None, previous: scene.vm().previous.clone().map(Box::new) });
    scene.finish("two");
    assert_eq!((scene.boots(), scene.vm().probation().unwrap().restarts), (Some(3), 1));
    scene.pass(CONFIRM / 2);
    scene.finish("two");
    assert_eq!(scene.boots(), Some(1));
}

#[test]
fn who_takes_the_condition_away_makes_it_final() {
    let mut scene = on_probation();
    scene.send(desired([(vm(), super::scene::spec(TWO))]));
    scene.finish("two");
    assert_eq!(scene.phase(), "active");
    scene.pass(CONFIRM);
    scene.finish("two");
    assert_eq!((scene.boots(), scene.phase()), (Some(2), "active"));
}

/// As a restart finds it that has lost its state: what is linked, and no more.
fn without_a_state() -> Scene {
    let mut scene = on_probation();
    let workload = scene.state.workloads.get_mut(&vm()).unwrap();
    let lost = eci_agent::agent::Probation { length: Duration::ZERO, boot: None, ends_at: None, restarts: 0 };
    *workload = eci_agent::agent::Workload {
        current: workload.current.clone(),
        previous: workload.previous.clone(),
        probations: [(2, lost)].into(),
        last_generation: 2,
        ..eci_agent::agent::Workload::default()
    };
    scene.state.accepted = None;
    scene.send(Event::Started);
    scene
}

#[test]
fn where_nobody_knows_whether_it_was_confirmed_it_is_not_and_nothing_ends_it_by_itself() {
    let mut scene = without_a_state();
    scene.deploy(unconfirmed(TWO), "two");
    assert_eq!((scene.phase(), scene.trouble().kind), ("probation", Kind::Unconfirmed));
    assert!(scene.trouble().message.contains("is not known"), "{}", scene.trouble().message);
    scene.pass(2 * CONFIRM);
    scene.finish("two");
    assert_eq!((scene.boots(), scene.phase()), (Some(2), "probation"));
    confirm(&mut scene);
    assert_eq!(scene.phase(), "active");
    let mut scene = without_a_state();
    scene.deploy(super::scene::spec(TWO), "two");
    assert_eq!((scene.phase(), scene.vm().trouble.clone()), ("active", None), "nobody has to");
}
