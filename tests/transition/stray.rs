//! Results that come late, or that nobody waits for.

use std::sync::Arc;

use super::scene::{
    ACTIVITIES, ONE, Scene, TWO, damaged, failure, laid_out, nothing_missing, spec, target, vm, vm_runs,
};
use eci_agent::agent::{Event, Outcome, Reject};
use eci_agent::failure::Retry;

/// One result of each sort.
fn outcomes() -> Vec<Outcome> {
    vec![
        Outcome::Resolved(target("one")),
        nothing_missing(),
        Outcome::Fetched,
        Outcome::Verified,
        damaged(),
        laid_out(&vm(), 1, &spec(ONE), &target("one")),
        Outcome::Activated,
        Outcome::Retired,
    ]
}

/// The results that each activity waits for.
fn awaited(activity: &str) -> &'static [&'static str] {
    match activity {
        "Resolving" | "Polling" => &["resolved"],
        "Planning" => &["planned"],
        "Fetching" => &["fetched"],
        "Verifying" => &["verified", "missing"],
        "Materializing" => &["materialized"],
        "Activating" => &["activated"],
        "Retiring" => &["retired"],
        _ => &[],
    }
}

#[test]
fn a_result_of_a_job_that_was_given_up_is_stale() {
    for activity in ["Resolving", "Planning", "Fetching", "Verifying", "Polling"] {
        let mut scene = Scene::during(activity);
        let late = scene.step(Ok(Outcome::Resolved(target("one"))));
        let late_failure = scene.step(Err(failure(Retry::Never)));
        let Event::Step { job, .. } = late else { unreachable!() };
        scene.send(vm_runs(TWO));
        assert_eq!(scene.rejected(late), Reject::Stale(job), "{activity}");
        assert_eq!(scene.rejected(late_failure), Reject::Stale(job), "{activity}");
    }
}

#[test]
fn a_result_that_nobody_waits_for_is_stale() {
    for activity in ["Idle", "Active", "Backoff", "Blocked"] {
        for outcome in outcomes() {
            let event = Event::Step { workload: vm(), job: 1, outcome: Ok(outcome) };
            assert_eq!(Scene::during(activity).rejected(event), Reject::Stale(1), "{activity}");
        }
    }
}

#[test]
fn a_result_that_does_not_follow_is_out_of_place() {
    for activity in ACTIVITIES {
        let scene = Scene::during(activity);
        if scene.vm().activity.job().is_none() {
            continue;
        }
        for outcome in outcomes().into_iter().filter(|outcome| !awaited(activity).contains(&outcome.name())) {
            let (event, phase) = (outcome.name(), scene.vm().phase().as_str());
            let reject = scene.rejected(scene.step(Ok(outcome)));
            assert_eq!(reject, Reject::OutOfPlace { workload: vm(), phase, event }, "{activity}");
        }
    }
}

#[test]
fn a_result_for_a_workload_that_is_gone_names_it() {
    let mut scene = Scene::during("Retiring");
    let late = scene.step(Ok(Outcome::Retired));
    scene.succeed("one");
    assert_eq!(scene.rejected(late), Reject::UnknownWorkload(vm()));
}

#[test]
fn a_rejection_says_what_was_out_of_place() {
    let scene = Scene::during("Polling");
    let text = scene.rejected(scene.step(Ok(Outcome::Fetched))).to_string();
    assert_eq!(text, "workload vm is active: fetched is out of place");
    let stale = Event::Step { workload: vm(), job: 9, outcome: Ok(Outcome::Resolved(Arc::clone(&target("x")))) };
    assert_eq!(scene.rejected(stale).to_string(), "job 9 was given up");
}
