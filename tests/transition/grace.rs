//! The time between the loss of a workload's name in the desired state and its retirement.

use std::time::Duration;

use super::scene::{
    ACTIVITIES, CONFIRM, ONE, Scene, TWO, boot, desired, failure, launch, names, spec, staged, target, unconfirmed, vm,
    vm_is_gone, vm_runs,
};
use eci_agent::agent::{Action, Event, Generation, Reject, Retirement};
use eci_agent::desired::{Spec, WorkloadName};
use eci_agent::failure::Retry;
use eci_agent::oci::Digest;

/// `[desired] retire` in these tests.
const GRACE: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);

fn other() -> WorkloadName {
    "other".parse().unwrap()
}

/// The file that is read when only `other` is named, and its digest.
fn only_other() -> (Event, Digest) {
    let event = desired([(other(), spec(TWO))]);
    let Event::Desired(Ok(reading)) = &event else { unreachable!() };
    let sha256 = reading.sha256;
    (event, sha256)
}

/// `vm` is in `activity`, and there is time before a retirement.
fn during(activity: &str) -> Scene {
    let mut scene = Scene::during(activity);
    scene.context.policy.retire = Some(GRACE);
    scene
}

/// The same, and the file has just lost the name.
fn lost(activity: &str) -> Scene {
    let mut scene = during(activity);
    scene.send(vm_is_gone());
    scene
}

fn ends_at(scene: &Scene) -> Option<Duration> {
    scene.vm().retirement.expect("a retirement is pending").ends_at
}

#[test]
fn whatever_goes_on_goes_on() {
    for activity in ACTIVITIES.into_iter().filter(|activity| *activity != "Retiring") {
        let mut scene = during(activity);
        let before = scene.vm().clone();
        assert_eq!(
            scene.send(vm_is_gone()),
            [Action::Save],
            "{activity}: the deadline is on disk, and no more is done"
        );
        let retirement =
            Retirement { length: Some(GRACE), boot: scene.context.boot, ends_at: Some(scene.context.now + GRACE) };
        assert_eq!(scene.vm().retirement, Some(retirement), "{activity}");
        let mut after = scene.vm().clone();
        after.retirement = None;
        assert_eq!(after, before, "{activity}");
    }
}

#[test]
fn the_links_go_when_the_time_is_up_and_not_before() {
    for activity in ACTIVITIES.into_iter().filter(|activity| *activity != "Retiring") {
        let mut scene = lost(activity);
        scene.pass(GRACE - SECOND);
        assert!(scene.vm().retirement.is_some() && scene.vm().spec.is_some(), "{activity}");
        let actions = scene.pass(SECOND);
        assert_eq!(scene.vm().retirement, None, "{activity}");
        match activity {
            "Materializing" | "Activating" => assert_eq!(names(&actions), ["Save"], "{activity}: it is left to end"),
            _ => {
                assert_eq!(names(&actions).first(), Some(&"Save"), "{activity}: before a link is removed");
                assert_eq!(names(&actions).last(), Some(&"Retire"), "{activity}");
                assert_eq!(scene.phase(), "retiring", "{activity}");
            }
        }
        scene.finish("one");
        assert!(scene.state.workloads.is_empty(), "{activity}");
    }
}

#[test]
fn it_wakes_by_itself_at_its_time() {
    let mut scene = lost("Active");
    scene.context.policy.poll = None;
    scene.state.workloads.get_mut(&vm()).unwrap().wake_at = None;
    let at = scene.context.now + GRACE;
    assert_eq!(scene.state.next_wake(), Some(at));
    assert_eq!(names(&scene.sleep()), ["Save", "Retire"]);
}

#[test]
fn named_again_it_is_as_if_nothing_had_been() {
    for activity in ACTIVITIES.into_iter().filter(|activity| *activity != "Retiring") {
        let mut scene = during(activity);
        let before = scene.vm().clone();
        scene.send(vm_is_gone());
        scene.context.now += GRACE - SECOND;
        let same = desired([(vm(), before.spec.clone().unwrap()), (other(), spec(TWO))]);
        assert_eq!(names(&scene.send(same)), ["Save", "Resolve"], "{activity}: the other workload's alone");
        assert_eq!(*scene.vm(), before, "{activity}");
        // A second loss has a time of its own.
        scene.send(only_other().0);
        assert_eq!(ends_at(&scene), Some(scene.context.now + GRACE), "{activity}");
    }
}

#[test]
fn named_again_with_another_image_it_is_updated() {
    let mut scene = lost("Active");
    assert_eq!(names(&scene.send(vm_runs(TWO))), ["Save", "Resolve"]);
    scene.finish("two");
    assert_eq!((scene.boots(), scene.falls_back_to(), scene.vm().retirement), (Some(2), Some(1), None));
}

#[test]
fn other_files_without_it_leave_its_time() {
    let mut scene = lost("Active");
    let at = ends_at(&scene);
    scene.pass(GRACE / 2);
    scene.send(only_other().0);
    assert_eq!(ends_at(&scene), at);
}

#[test]
fn a_probation_goes_on_and_is_confirmed_or_rolled_back() {
    let on_probation = || {
        let mut scene = Scene::during("Active");
        scene.deploy(unconfirmed(TWO), "two");
        scene.context.policy.retire = Some(2 * CONFIRM);
        scene.send(vm_is_gone());
        assert_eq!(scene.phase(), "probation");
        scene
    };
    let mut scene = on_probation();
    scene.send(Event::Confirm(vm()));
    assert_eq!((scene.phase(), scene.vm().retirement.is_some()), ("active", true));
    let mut scene = on_probation();
    scene.pass(CONFIRM);
    scene.finish("two");
    assert_eq!((scene.boots(), scene.phase(), scene.vm().retirement.is_some()), (Some(1), "blocked", true));
}

#[test]
fn what_is_staged_may_be_let_pass_and_what_runs_rolled_back() {
    let mut scene = Scene::during("Active");
    scene.deploy(staged(TWO), "two");
    scene.context.policy.retire = Some(GRACE);
    scene.send(vm_is_gone());
    scene.send(Event::Activate(vm()));
    scene.finish("two");
    assert_eq!((scene.boots(), scene.vm().retirement.is_some()), (Some(2), true));
    scene.send(Event::RollBack(vm()));
    scene.finish("two");
    assert_eq!((scene.boots(), scene.vm().retirement.is_some()), (Some(1), true));
}

#[test]
fn what_failed_is_tried_again() {
    let mut scene = lost("Backoff");
    assert_eq!(names(&scene.sleep()), ["Resolve"]);
    scene.finish("one");
    assert_eq!((scene.activity(), scene.boots()), ("Active", Some(1)));
}

#[test]
fn without_time_it_is_retired_at_once_also_where_it_had_some() {
    let mut scene = lost("Active");
    scene.context.policy.retire = Some(Duration::ZERO);
    assert_eq!(names(&scene.send(only_other().0)), ["Save", "Retire", "Resolve"]);
}

#[test]
fn only_an_operator_retires_where_that_is_configured() {
    let mut scene = during("Active");
    scene.context.policy.retire = None;
    let (event, sha256) = only_other();
    scene.send(event);
    assert_eq!(ends_at(&scene), None);
    scene.pass(1000 * GRACE);
    scene.finish("one");
    assert!(scene.vm().retirement.is_some());
    assert_eq!(names(&scene.send(Event::Retire(sha256))), ["Save", "Retire"]);
}

#[test]
fn an_operator_ends_every_time_of_the_file_in_force() {
    let mut scene = during("Active");
    let (event, sha256) = only_other();
    scene.send(event);
    let before = scene.state.clone();
    let another = Digest::of(b"another");
    assert_eq!(scene.rejected(Event::Retire(another)), Reject::OtherDesired(another));
    assert_eq!(scene.state, before);
    assert_eq!(names(&scene.send(Event::Retire(sha256))), ["Save", "Retire"]);
    assert!(scene.state.workloads[&other()].spec.is_some(), "what is named stays");
    assert_eq!(scene.send(Event::Retire(sha256)), [], "asking twice is asking once");
    let nothing = Scene::new();
    assert_eq!(nothing.rejected(Event::Retire(sha256)), Reject::OtherDesired(sha256));
}

#[test]
fn a_restart_keeps_the_deadline_and_a_reboot_starts_it_anew() {
    let mut scene = lost("Active");
    let at = ends_at(&scene);
    scene.context.now += GRACE / 2;
    assert_eq!(names(&scene.send(Event::Started)).first(), Some(&"Save"));
    assert_eq!(ends_at(&scene), at, "the same boot");
    // The boot clock starts anew, and the wall clock may be years off: neither retires early.
    for (now, years) in [(10, 50), (10_000, 0)] {
        let mut scene = scene.clone();
        (scene.context.boot, scene.context.now) = (boot(2), Duration::from_secs(now));
        scene.context.wall += jiff::SignedDuration::from_hours(years * 366 * 24);
        scene.send(Event::Started);
        assert_eq!(ends_at(&scene), Some(scene.context.now + GRACE));
        scene.pass(GRACE - SECOND);
        assert!(scene.vm().retirement.is_some());
        scene.pass(SECOND);
        assert_eq!(scene.vm().retirement, None);
    }
    // A kernel that does not say which boot it is: never early either.
    scene.context.boot = None;
    scene.send(Event::Started);
    assert_eq!(ends_at(&scene), Some(scene.context.now + GRACE));
}

#[test]
fn while_the_file_is_rejected_no_time_is_up() {
    let mut scene = lost("Active");
    scene.context.policy.poll = None;
    scene.state.workloads.get_mut(&vm()).unwrap().wake_at = None;
    scene.send(Event::Desired(Err(failure(Retry::Never))));
    assert_eq!(scene.state.next_wake(), None, "nothing wakes for it");
    assert_eq!(scene.pass(2 * GRACE), []);
    assert!(scene.vm().retirement.is_some());
    // Right again, and without the name: it is up at once.
    scene.send(vm_is_gone());
    assert_eq!(names(&scene.sleep()), ["Save", "Retire"]);
}

#[test]
fn a_workload_of_a_lost_state_has_time_too() {
    let mut scene = Scene::restored(None);
    scene.context.policy.retire = Some(GRACE);
    let (event, sha256) = only_other();
    assert_eq!(names(&scene.send(event)), ["Save", "Resolve"], "the other workload's alone");
    assert_eq!((scene.activity(), scene.boots()), ("Idle", Some(1)));
    for event in [Event::Tick, Event::Reconcile(Some(vm())), Event::Started, Event::ClockSet] {
        scene.send(event);
        assert_eq!((scene.activity(), scene.vm().wake_at), ("Idle", None), "nothing is begun for it");
    }
    scene.send(Event::Confirm(vm()));
    let found = Generation::new(&launch(&vm(), 1, &spec(ONE), &target("one")), None);
    scene.send(Event::Found { workload: vm(), current: Some(Box::new(found)), previous: None });
    assert_eq!(names(&scene.clone().send(Event::Retire(sha256))), ["Save", "Retire"]);
    let both = desired([(vm(), spec(ONE)), (other(), spec(TWO))]);
    assert_eq!(names(&scene.clone().send(both)), ["Save", "Resolve"]);
    scene.context.now += GRACE;
    assert_eq!(names(&scene.send(Event::Tick)), ["Save", "Retire"]);
}

#[test]
fn a_removal_that_has_begun_gets_no_time() {
    let mut scene = Scene::during("Retiring");
    scene.context.policy.retire = Some(GRACE);
    scene.send(vm_runs(ONE));
    scene.send(only_other().0);
    assert_eq!((scene.activity(), scene.vm().retirement), ("Retiring", None), "no link is left that could be kept");
    scene.succeed("one");
    assert!(!scene.state.workloads.contains_key(&vm()));
    // Nor one that failed half way.
    let mut scene = Scene::during("Retiring");
    scene.context.policy.retire = Some(GRACE);
    scene.fail(Retry::Later);
    assert_eq!(names(&scene.send(only_other().0)), ["Save", "Retire", "Resolve"]);
}

#[test]
fn nothing_of_it_is_swept_or_collected() {
    let mut scene = during("Fetching");
    scene.send(vm_is_gone());
    assert!(scene.state.wanted().unwrap().contains(&target("one").manifest.digest), "its download is kept");
    // Positive control: once it is retired, its download is not wanted any more.
    scene.pass(GRACE);
    scene.finish("one");
    assert!(scene.state.wanted().unwrap().is_empty());
}

#[test]
fn other_keys_alone_change_nothing_about_a_time() {
    let mut scene = lost("Active");
    let at = ends_at(&scene);
    scene.send(desired([(other(), Spec { cmdline: Some("quiet".to_owned()), ..spec(TWO) })]));
    assert_eq!(ends_at(&scene), at);
}
