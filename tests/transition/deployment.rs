//! From a named image to one that boots, and looking again later.

use super::scene::{
    INITIAL, ONE, POLL, Scene, damaged, laid_out, names, nothing_missing, pinned, something_missing, spec, sweep,
    target, vm, vm_runs,
};
use eci_agent::agent::{Action, Event, Outcome, Phase, Reject, Way};
use eci_agent::failure::{Kind, Retry};
use eci_agent::oci::Digest;

#[test]
fn the_first_deployment_goes_step_by_step() {
    let mut scene = Scene::new();
    let (one, image) = (spec(ONE), target("one"));

    let actions = scene.send(vm_runs(ONE));
    let resolve = Action::Resolve { workload: vm(), job: 1, spec: one.clone() };
    assert_eq!((actions, scene.activity()), (vec![Action::Save, resolve], "Resolving"));

    let actions = scene.end(Ok(Outcome::Resolved(image.clone())));
    let plan = Action::Plan { workload: vm(), job: 1, target: image.clone() };
    assert_eq!((actions, scene.activity()), (vec![Action::Save, plan], "Planning"));

    let Outcome::Planned(missing) = something_missing() else { unreachable!() };
    let actions = scene.end(Ok(Outcome::Planned(missing.clone())));
    let fetch = Action::Fetch { workload: vm(), job: 1, spec: one.clone(), target: image.clone(), plan: missing };
    assert_eq!((actions, scene.activity()), (vec![fetch], "Fetching"));

    let actions = scene.end(Ok(Outcome::Fetched));
    let verify = Action::Verify { workload: vm(), job: 1, target: image.clone() };
    assert_eq!((actions, scene.activity()), (vec![verify], "Verifying"));

    let actions = scene.end(Ok(Outcome::Verified));
    let lay_out = Action::Materialize { workload: vm(), job: 1, spec: one.clone(), target: image.clone(), after: 0 };
    assert_eq!((actions, scene.activity()), (vec![lay_out], "Materializing"));

    let actions = scene.end(Ok(laid_out(&vm(), 4, &one, &image)));
    let activate = Action::Activate { workload: vm(), job: 1, generation: 4, previous: None, way: Way::Forth };
    assert_eq!((actions, scene.activity()), (vec![activate], "Activating"));
    assert_eq!(scene.boots(), None, "a generation counts once the link points at it");

    let actions = scene.end(Ok(Outcome::Activated));
    assert_eq!((actions, scene.activity()), (vec![Action::Save, sweep(&[])], "Active"));
    let current = scene.vm().current.clone().unwrap();
    assert_eq!((current.number, current.activated_at), (4, Some(scene.context.wall)));
    assert!(current.satisfies(&one, &image));
    assert_eq!((scene.vm().previous.clone(), scene.vm().last_generation), (None, 4));
}

#[test]
fn an_image_that_the_cache_has_is_not_fetched() {
    let mut scene = Scene::during("Planning");
    let actions = scene.end(Ok(nothing_missing()));
    assert_eq!((names(&actions), scene.activity()), (vec!["Verify"], "Verifying"));
}

#[test]
fn what_is_damaged_in_the_cache_is_fetched_again_by_the_same_job() {
    let mut scene = Scene::during("Verifying");
    let plan = Action::Plan { workload: vm(), job: 1, target: target("one") };
    assert_eq!((scene.end(Ok(damaged())), scene.activity()), (vec![plan], "Planning"));
    scene.finish("one");
    assert_eq!((scene.activity(), scene.boots()), ("Active", Some(1)));
}

#[test]
fn what_is_damaged_again_at_once_waits_to_be_fetched_again() {
    let mut scene = Scene::during("Verifying");
    for attempt in 1..5 {
        scene.end(Ok(damaged()));
        scene.succeed("one");
        scene.succeed("one");
        assert_eq!(scene.activity(), "Verifying");
        scene.end(Ok(damaged()));
        assert_eq!((scene.activity(), scene.boots()), ("Backoff", None));
        assert_eq!((scene.trouble().kind, scene.trouble().attempts), (Kind::Damaged, attempt));
        assert!(scene.trouble().message.contains(&Digest::of(b"disk").short()), "{}", scene.trouble().message);
        scene.sleep();
        while scene.activity() != "Verifying" {
            scene.succeed("one");
        }
    }
    scene.finish("one");
    assert_eq!((scene.activity(), scene.boots(), scene.vm().trouble.as_ref()), ("Active", Some(1), None));
}

#[test]
fn an_unchanged_image_is_neither_planned_nor_activated_again() {
    let mut scene = Scene::during("Active");
    let before = scene.vm().clone();
    let actions = scene.sleep();
    assert_eq!(actions, [Action::Resolve { workload: vm(), job: 2, spec: spec(ONE) }]);
    assert_eq!(scene.activity(), "Polling");
    assert_eq!(scene.vm().phase(), Phase::Active, "looking again changes nothing about what runs");
    assert_eq!(scene.succeed("one"), []);
    assert_eq!(scene.activity(), "Active");
    assert_eq!((&scene.vm().current, &scene.vm().previous), (&before.current, &before.previous));
}

#[test]
fn a_tag_that_moved_is_deployed_and_what_ran_is_kept_as_previous() {
    let mut scene = Scene::during("Polling");
    assert_eq!(names(&scene.succeed("moved")), ["Save", "Plan"]);
    assert_eq!(scene.boots(), Some(1), "it boots until the link is swapped");
    scene.finish("moved");
    assert_eq!((scene.activity(), scene.boots()), ("Active", Some(2)));
    assert_eq!(scene.vm().previous.as_ref().map(|previous| previous.number), Some(1));
}

#[test]
fn polls_keep_within_a_tenth_of_their_interval() {
    for (chance, parts) in [(0.0, 0.9), (0.25, 0.95), (0.5, 1.0), (0.999_999, 1.1)] {
        let mut scene = Scene::during("Activating");
        scene.context.chance = chance;
        scene.succeed("one");
        let away = scene.sleeps().unwrap().abs_diff(POLL.mul_f64(parts));
        assert!(away < INITIAL, "{chance}: {:?}", scene.sleeps());
    }
}

#[test]
fn a_digest_is_never_polled() {
    let mut scene = Scene::new();
    scene.send(vm_runs(&pinned(ONE)));
    scene.finish("pinned");
    assert_eq!((scene.activity(), scene.sleeps()), ("Active", None));
}

#[test]
fn nothing_is_polled_where_polling_is_off() {
    let mut scene = Scene::during("Activating");
    scene.context.policy.poll = None;
    scene.succeed("one");
    assert_eq!((scene.activity(), scene.sleeps()), ("Active", None));
}

#[test]
fn a_tick_before_its_time_wakes_nobody() {
    let mut scene = Scene::during("Active");
    scene.context.now = scene.vm().wake_at.unwrap().checked_sub(INITIAL).unwrap();
    assert_eq!(scene.send(Event::Tick), []);
    assert_eq!(scene.activity(), "Active");
}

#[test]
fn times_beyond_every_clock_end_nothing() {
    let mut scene = Scene::during("Activating");
    scene.context.policy.poll = Some(std::time::Duration::MAX);
    scene.context.chance = 0.999_999;
    scene.succeed("one");
    assert!(scene.sleeps().unwrap() > POLL);
    let mut scene = Scene::during("Resolving");
    scene.fail(Retry::After(std::time::Duration::MAX));
    assert!(scene.sleeps().unwrap() > POLL);
}

#[test]
fn after_a_restart_what_boots_is_what_counts() {
    let mut scene = Scene::restored(Some(ONE));
    assert_eq!(names(&scene.sleep()), ["Resolve"]);
    assert_eq!(scene.succeed("one"), [sweep(&[])], "the links say already what is desired");
    assert_eq!((scene.activity(), scene.boots()), ("Active", Some(1)));
}

#[test]
fn whoever_asks_has_it_looked_at_now() {
    for activity in ["Idle", "Active", "Backoff", "Blocked"] {
        for whom in [None, Some(vm())] {
            let mut scene = Scene::during(activity);
            assert_eq!(names(&scene.send(Event::Reconcile(whom))), ["Resolve"], "{activity}");
        }
    }
    for activity in
        ["Resolving", "Planning", "Fetching", "Verifying", "Materializing", "Activating", "Polling", "Retiring"]
    {
        let mut scene = Scene::during(activity);
        let before = scene.state.clone();
        assert_eq!(scene.send(Event::Reconcile(Some(vm()))), [], "{activity} goes on already");
        assert_eq!(scene.state, before);
    }
    let nobody = Scene::new().rejected(Event::Reconcile(Some(vm())));
    assert_eq!(nobody, Reject::UnknownWorkload(vm()));
}
