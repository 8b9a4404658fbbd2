//! What goes wrong, and when it is tried again.

use std::time::Duration;

use super::scene::{ACTIVITIES, INITIAL, MAX, ONE, POLL, Scene, failure, names, pinned, sweep, vm_is_gone, vm_runs};
use eci_agent::agent::{Action, Event};
use eci_agent::failure::{Failure, Kind, Retry};
use jiff::{Timestamp, ToSpan};

/// The activities in which something goes on.
fn busy() -> impl Iterator<Item = &'static str> {
    ACTIVITIES.into_iter().filter(|activity| !["Idle", "Staged", "Active", "Backoff", "Blocked"].contains(activity))
}

#[test]
fn what_may_help_later_is_tried_later() {
    for activity in busy() {
        let mut scene = Scene::during(activity);
        let before = scene.vm().current.clone();
        let actions = scene.fail(Retry::Later);
        assert!(actions.iter().all(|action| matches!(action, Action::Sweep { .. })), "{activity}: {actions:?}");
        assert_eq!((scene.activity(), scene.sleeps()), ("Backoff", Some(INITIAL / 2)), "{activity}");
        assert_eq!(scene.vm().current, before, "{activity}: what runs stays");
        let retry_at = scene.context.wall.checked_add(INITIAL / 2).unwrap();
        assert_eq!(scene.trouble().retry_at, Some(retry_at));
        let next = if activity == "Retiring" { "Retire" } else { "Resolve" };
        assert_eq!(names(&scene.sleep()), [next], "{activity}");
    }
}

#[test]
fn waits_double_up_to_the_longest_and_are_spread_over_their_whole_length() {
    for chance in [0.0, 0.3, 0.999] {
        let mut scene = Scene::during("Resolving");
        scene.context.chance = chance;
        for attempt in 1..=40 {
            scene.fail(Retry::Later);
            let longest = INITIAL.saturating_mul(2_u32.saturating_pow(attempt - 1)).min(MAX);
            assert_eq!(scene.sleeps(), Some(longest.mul_f64(chance)), "{attempt}");
            assert_eq!(scene.trouble().attempts, attempt);
            scene.sleep();
        }
    }
}

#[test]
fn a_registry_that_says_when_to_come_back_is_not_asked_before() {
    for (chance, wait) in [(0.0, 300.0), (0.5, 300.5)] {
        let mut scene = Scene::during("Fetching");
        scene.context.chance = chance;
        scene.fail(Retry::After(Duration::from_secs(300)));
        assert_eq!((scene.activity(), scene.sleeps()), ("Backoff", Some(Duration::from_secs_f64(wait))));
    }
}

#[test]
fn a_registry_that_always_says_at_once_is_asked_less_and_less() {
    let mut scene = Scene::during("Fetching");
    for attempt in 0..10 {
        scene.fail(Retry::After(Duration::ZERO));
        let longest = INITIAL.saturating_mul(1 << attempt).min(MAX);
        assert_eq!(scene.sleeps(), Some(longest / 2), "{attempt}");
        scene.sleep();
    }
}

#[test]
fn what_only_a_person_can_mend_blocks_until_the_poll() {
    for activity in busy().filter(|activity| *activity != "Retiring") {
        let mut scene = Scene::during(activity);
        let actions = scene.fail(Retry::Never);
        assert!(actions.iter().all(|action| matches!(action, Action::Sweep { .. })), "{activity}: {actions:?}");
        assert_eq!((scene.activity(), scene.sleeps()), ("Blocked", Some(POLL)), "{activity}");
        // The image behind the tag may be another by then.
        assert_eq!(names(&scene.sleep()), ["Resolve"], "{activity}");
    }
}

#[test]
fn a_digest_that_is_blocked_is_tried_again_at_the_poll_too() {
    let mut scene = Scene::new();
    scene.send(vm_runs(&pinned(ONE)));
    scene.fail(Retry::Never);
    assert_eq!((scene.activity(), scene.sleeps()), ("Blocked", Some(POLL)));
}

#[test]
fn without_a_poll_what_is_blocked_waits_for_a_person() {
    let mut scene = Scene::during("Resolving");
    scene.context.policy.poll = None;
    scene.fail(Retry::Never);
    assert_eq!((scene.activity(), scene.sleeps(), scene.trouble().retry_at), ("Blocked", None, None));
}

#[test]
fn trouble_counts_from_the_first_failure_of_its_kind() {
    let hour = |n: i64| Timestamp::UNIX_EPOCH + n.hours();
    let mut scene = Scene::during("Resolving");
    for (n, retry, kind, since) in [
        (1, Retry::Later, Kind::Unreachable, 1),
        (2, Retry::Later, Kind::Unreachable, 1),
        (3, Retry::Never, Kind::ManifestInvalid, 3),
        (4, Retry::Later, Kind::Unreachable, 4),
    ] {
        scene.context.wall = hour(n);
        scene.fail(retry);
        let trouble = scene.trouble();
        assert_eq!((trouble.kind, trouble.since, i64::from(trouble.attempts)), (kind, hour(since), n));
        scene.sleep();
    }
}

#[test]
fn trouble_lasts_until_what_is_desired_runs() {
    let mut scene = Scene::during("Backoff");
    scene.sleep();
    while scene.activity() != "Active" {
        assert_eq!(scene.trouble().message, failure(Retry::Later).message);
        scene.succeed("one");
    }
    assert_eq!(scene.vm().trouble, None);
    // From then on, waits begin short again.
    scene.sleep();
    scene.fail(Retry::Later);
    assert_eq!((scene.trouble().attempts, scene.sleeps()), (1, Some(INITIAL / 2)));
}

#[test]
fn a_poll_that_fails_leaves_what_runs_and_goes_on_as_a_retry() {
    let mut scene = Scene::during("Polling");
    scene.fail(Retry::Later);
    assert_eq!((scene.activity(), scene.boots()), ("Backoff", Some(1)));
    assert_eq!((scene.phase(), scene.vm().runs_desired()), ("active", true));
    assert!(scene.vm().poll_at.is_some() && scene.vm().trouble.is_some());
    scene.sleep();
    assert_eq!((scene.activity(), scene.phase()), ("Resolving", "active"), "a retry does not flap");
    assert_eq!(scene.succeed("one"), [sweep(&[])]);
    assert_eq!((scene.activity(), &scene.vm().trouble), ("Active", &None));
}

#[test]
fn an_outage_is_backoff_only_if_another_image_is_wanted() {
    let mut scene = Scene::during("Active");
    scene.send(vm_runs("a.example/vm:2"));
    scene.fail(Retry::Later);
    assert_eq!((scene.phase(), scene.vm().runs_desired()), ("backoff", false), "another reference");
    let mut scene = Scene::during("Polling");
    scene.succeed("two");
    scene.fail(Retry::Later);
    assert_eq!((scene.phase(), scene.vm().runs_desired()), ("backoff", false), "the tag was moved");
    let mut scene = Scene::during("Polling");
    scene.fail(Retry::Never);
    assert_eq!((scene.phase(), scene.vm().runs_desired()), ("blocked", true));
}

#[test]
fn after_a_restart_an_outage_leaves_what_runs_active() {
    let mut scene = Scene::restored(Some(ONE));
    scene.sleep();
    scene.fail(Retry::Later);
    assert_eq!((scene.activity(), scene.phase()), ("Backoff", "active"));
}

#[test]
fn links_that_fail_again_and_again_cost_one_generation() {
    let mut scene = Scene::during("Activating");
    for _ in 0..3 {
        scene.fail(Retry::Later);
        scene.sleep();
        assert_eq!(names(&scene.succeed("one")), ["Activate"]);
    }
}

#[test]
fn a_removal_fails_as_anything_else_does() {
    let mut scene = Scene::during("Active");
    scene.send(vm_is_gone());
    scene.fail(Retry::Never);
    assert_eq!((scene.activity(), scene.sleeps(), scene.boots()), ("Blocked", Some(POLL), Some(1)));
}

#[test]
fn what_failed_for_the_clock_is_tried_when_the_clock_is_set() {
    let mut scene = Scene::during("Resolving");
    scene.end(Err(Failure { kind: Kind::ClockWrong, ..failure(Retry::Later) }));
    assert_eq!(scene.activity(), "Backoff");
    assert_eq!(names(&scene.send(Event::ClockSet)), ["Resolve"]);
    scene.fail(Retry::Later);
    assert_eq!(scene.send(Event::ClockSet), [], "a registry that is down is no matter of the clock");
}
