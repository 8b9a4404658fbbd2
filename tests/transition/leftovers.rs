//! Which downloads are kept: those of images that a workload is on its way to, whatever has become of it.

use super::scene::{ONE, Scene, TWO, desired, failure, names, spec, sweep, target, vm};
use eci_agent::agent::{Action, Activity, Event, Outcome};
use eci_agent::desired::WorkloadName;
use eci_agent::failure::{Failure, Kind, Retry};

fn router() -> WorkloadName {
    "router".parse().unwrap()
}

/// The step that goes on for `router` ends.
fn end(scene: &mut Scene, outcome: Result<Outcome, Failure>) -> Vec<Action> {
    let job = scene.state.workloads[&router()].activity.job().expect("something goes on").id;
    scene.send(Event::Step { workload: router(), job, outcome })
}

/// Two workloads, of which `router` is fetching the image "one".
fn two() -> Scene {
    let mut scene = Scene::new();
    scene.send(desired([(vm(), spec(ONE)), (router(), spec(TWO))]));
    end(&mut scene, Ok(Outcome::Resolved(target("one"))));
    end(&mut scene, Ok(super::scene::something_missing()));
    scene
}

#[test]
fn what_a_workload_fails_at_is_kept_and_no_more() {
    let mut scene = two();
    scene.succeed("here");
    assert_eq!(end(&mut scene, Err(failure(Retry::Later))), [sweep(&["here", "one"])]);
    scene.finish("here");
    // Its reference leads elsewhere by now; until that is known, what it led to is kept.
    scene.sleep();
    assert_eq!(end(&mut scene, Err(failure(Retry::Never))), [sweep(&["one"])]);
    scene.send(desired([(vm(), spec(ONE)), (router(), spec(ONE))]));
    assert_eq!(names(&end(&mut scene, Ok(Outcome::Resolved(target("other"))))), ["Save", "Plan"]);
    assert_eq!(end(&mut scene, Err(failure(Retry::Later))), [sweep(&["other"])]);
}

#[test]
fn what_never_came_to_lead_anywhere_keeps_nothing() {
    let mut scene = two();
    assert_eq!(end(&mut scene, Err(failure(Retry::Later))), [], "it is just being found out what the other is after");
    assert_eq!(scene.fail(Retry::Never), [sweep(&["one"])]);
    scene.send(desired([(vm(), spec(ONE))]));
    assert_eq!(end(&mut scene, Ok(Outcome::Retired)), [Action::Save, sweep(&[])]);
}

#[test]
fn a_restart_knows_what_was_begun() {
    let mut scene = Scene::restored(Some(TWO));
    let workload = scene.state.workloads.get_mut(&vm()).unwrap();
    workload.after = Some(target("begun").manifest.digest);
    scene.sleep();
    assert_eq!(scene.fail(Retry::Later), [sweep(&["begun"])]);
    scene.sleep();
    assert_eq!(names(&scene.succeed("begun")), ["Plan"], "it is saved already");
    scene.finish("begun");
    assert_eq!((scene.activity(), scene.vm().after), ("Active", None));
}

#[test]
fn what_the_disk_had_no_room_for_is_tried_again_when_another_has_left_some() {
    for (kind, wakes) in [(Kind::DiskFull, true), (Kind::NotFound, false)] {
        let mut scene = two();
        end(&mut scene, Err(Failure { kind, message: "x".to_owned(), retry: Retry::Never }));
        let blocked = scene.state.workloads[&router()].clone();
        assert_eq!(blocked.activity, Activity::Blocked);
        // One that fails as well has left nothing.
        scene.fail(Retry::Later);
        assert_eq!(scene.state.workloads[&router()].wake_at, blocked.wake_at);
        scene.sleep();
        scene.succeed("here");
        scene.finish("here");
        let now = (scene.state.workloads[&router()].wake_at == Some(scene.context.now), wakes);
        assert_eq!(now.0, now.1, "{kind}");
    }
}

#[test]
fn a_poll_gives_nothing_up() {
    for outcome in [Ok(Outcome::Resolved(target("one"))), Err(failure(Retry::Later))] {
        assert_eq!(Scene::during("Polling").end(outcome), []);
    }
}
