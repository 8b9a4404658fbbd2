//! Links or generations that somebody has damaged while the agent runs.

use super::scene::{ACTIVITIES, ONE, Scene, launch, names, spec, target, vm};
use eci_agent::agent::{Action, Event, Generation, Reject};
use eci_agent::oci::Digest;

fn found(current: Option<u64>) -> Event {
    let generation = |number| Generation::new(&launch(&vm(), number, &spec(ONE), &target("one")), None);
    Event::Found { workload: vm(), current: current.map(generation).map(Box::new), previous: None }
}

#[test]
fn what_is_no_longer_there_is_made_again() {
    for activity in ["Idle", "Active", "Backoff", "Blocked"] {
        let mut scene = Scene::during(activity);
        let is_deployed = scene.boots().is_some();
        let actions = scene.send(found(None));
        assert_eq!(names(&actions), if is_deployed { vec!["Resolve"] } else { vec![] }, "{activity}");
        if is_deployed {
            scene.finish("one");
            assert_eq!((scene.activity(), scene.boots()), ("Active", Some(2)), "{activity}");
        }
    }
}

#[test]
fn what_is_as_it_was_changes_nothing() {
    let mut scene = Scene::during("Active");
    assert_eq!(scene.send(found(Some(1))), []);
    assert_eq!(scene.activity(), "Active");
}

#[test]
fn what_a_lost_generation_said_is_known_until_no_link_can_point_at_it() {
    let record = Digest::of(b"launch.json");
    let mut scene = Scene::during("Active");
    let current = scene.state.workloads.get_mut(&vm()).and_then(|vm| vm.current.as_mut());
    current.unwrap().record = Some(record);
    scene.send(found(None));
    assert_eq!(scene.vm().lost_records, [(1, record)].into());
    scene.finish("one");
    assert_eq!((scene.boots(), &scene.vm().lost_records), (Some(2), &[].into()));
}

#[test]
fn what_is_found_and_not_known_is_noted() {
    let record = Some(Digest::of(b"launch.json"));
    let mut scene = Scene::during("Active");
    let Event::Found { workload, current: Some(mut current), previous } = found(Some(1)) else { unreachable!() };
    current.record = record;
    let event = Event::Found { workload, current: Some(current), previous };
    assert_eq!(scene.send(event).first(), Some(&Action::Save));
}

#[test]
fn a_step_that_goes_on_may_be_changing_just_this() {
    for activity in ACTIVITIES {
        let scene = Scene::during(activity);
        if let Some(job) = scene.vm().activity.job() {
            assert_eq!(scene.rejected(found(None)), Reject::Stale(job.id), "{activity}");
        }
    }
}

#[test]
fn before_anything_is_accepted_nothing_is_begun() {
    let mut scene = Scene::restored(None);
    assert_eq!(scene.send(found(None)), []);
    assert_eq!((scene.activity(), scene.boots()), ("Idle", None));
}
