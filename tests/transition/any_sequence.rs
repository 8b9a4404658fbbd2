//! Whatever happens, in whatever order: what must hold after every event, and where it all ends.

mod node;

use std::time::Duration;

use proptest::prelude::*;

use self::node::{Ending, IMAGES, Manner, NAMES, Node, name};
use super::scene::{ONE, TWO, failure, nothing_missing};
use eci_agent::agent::{Event, Outcome, Reject};
use eci_agent::failure::Retry;

/// Something that can happen to a node.
#[derive(Clone, Debug)]
enum Happening {
    /// The desired-state file names another of [`IMAGES`] for one of [`NAMES`], or names it no more.
    Desire(usize, Option<usize>, Manner),
    /// The desired-state file is broken.
    Break,
    /// A workload's step ends, if one goes on.
    End(usize, Ending),
    /// Something comes that is not the result of the step that goes on.
    Misplace(usize),
    /// A job that was given up ends after all.
    EndLate,
    /// Someone asks.
    Reconcile(Option<usize>),
    /// Time goes by.
    Sleep(Duration),
    /// The tags lead to other images from now on.
    MoveTags,
    /// The window for activations opens after this time, or is open.
    Window(Option<Duration>),
    /// An operator ends the time of every pending retirement, and knows the file that is in force, or another one.
    Retire(bool),
    /// Someone lets a staged generation pass, or has another try at what was rolled back.
    Activate(usize),
    /// Someone says that what runs is right.
    Confirm(usize),
    /// Someone wants back what ran before.
    RollBack(usize),
    /// What runs was checked, and is well or not.
    Check(usize, bool),
    /// The agent starts anew; whether the machine does.
    Restart(bool),
}

fn retry() -> impl Strategy<Value = Retry> {
    prop_oneof![Just(Retry::Never), Just(Retry::Later), (0..100_u64).prop_map(|s| Retry::After(Duration::from_secs(s)))]
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        4 => Just(Ending::Well),
        1 => (retry(), any::<bool>()).prop_map(|(retry, half_done)| Ending::Badly { retry, half_done }),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..NAMES.len(), prop::option::weighted(0.8, 0..IMAGES.len()), manner())
            .prop_map(|(whose, image, manner)| Happening::Desire(whose, image, manner)),
        1 => Just(Happening::Break),
        24 => (0..NAMES.len(), ending()).prop_map(|(whose, ending)| Happening::End(whose, ending)),
        1 => (0..NAMES.len()).prop_map(Happening::Misplace),
        2 => Just(Happening::EndLate),
        1 => prop::option::of(0..NAMES.len()).prop_map(Happening::Reconcile),
        3 => (0..2000_u64).prop_map(|s| Happening::Sleep(Duration::from_secs(s))),
        1 => Just(Happening::MoveTags),
        1 => prop::option::of((0..3000_u64).prop_map(Duration::from_secs)).prop_map(Happening::Window),
        1 => any::<bool>().prop_map(Happening::Retire),
        2 => (0..NAMES.len()).prop_map(Happening::Activate),
        1 => (0..NAMES.len()).prop_map(Happening::Confirm),
        2 => (0..NAMES.len()).prop_map(Happening::RollBack),
        2 => (0..NAMES.len(), any::<bool>()).prop_map(|(whose, is_well)| Happening::Check(whose, is_well)),
        1 => any::<bool>().prop_map(Happening::Restart),
    ]
}

fn manner() -> impl Strategy<Value = Manner> {
    prop::sample::select(vec![Manner::AtOnce, Manner::Staged, Manner::Unconfirmed, Manner::StagedAndUnconfirmed])
}

fn happen(node: &mut Node, happening: &Happening) {
    match *happening {
        Happening::Desire(whose, image, manner) => node.desire(whose, image, manner),
        Happening::Break => node.take(Event::Desired(Err(failure(Retry::Never)))).unwrap(),
        Happening::End(whose, ending) => node.end(whose, ending),
        Happening::Misplace(whose) => {
            if let Some(job) = node.job(whose) {
                // Each fits one activity; the one that does not is sent.
                let outcome = if node.resolves(whose) { Outcome::Fetched } else { Outcome::Resolved(node.image(ONE)) };
                let event = Event::Step { workload: name(whose), job, outcome: Ok(outcome) };
                assert!(matches!(node.take(event), Err(Reject::OutOfPlace { .. })));
            }
        }
        Happening::EndLate => {
            if let Some((workload, job)) = node.given_up.pop() {
                let event = Event::Step { workload, job, outcome: Ok(nothing_missing()) };
                assert!(matches!(node.take(event), Err(Reject::Stale(_) | Reject::UnknownWorkload(_))));
            }
        }
        Happening::Reconcile(whose) => {
            let whom = whose.map(name);
            let known = whom.as_ref().is_none_or(|name| node.state.workloads.contains_key(name));
            assert_eq!(node.take(Event::Reconcile(whom)).is_ok(), known);
        }
        Happening::Sleep(time) => {
            node.context.now += time;
            node.take(Event::Tick).unwrap();
        }
        Happening::MoveTags => node.tags_moved += 1,
        Happening::Window(time) => node.set_window(time),
        Happening::Retire(knows_file) => node.retire(knows_file),
        // Each is refused where it makes no sense.
        Happening::Activate(whose) => drop(node.take(Event::Activate(name(whose)))),
        Happening::Confirm(whose) => drop(node.take(Event::Confirm(name(whose)))),
        Happening::RollBack(whose) => drop(node.take(Event::RollBack(name(whose)))),
        Happening::Check(whose, is_well) => {
            let workload = name(whose);
            let runs = node.state.workloads.get(&workload).and_then(|workload| workload.current.as_ref());
            if let Some(generation) = runs.map(|current| current.number) {
                let result = if is_well { Ok(()) } else { Err("it does not answer".to_owned()) };
                node.take(Event::Checked { workload, generation, result }).unwrap();
            }
        }
        Happening::Restart(reboots) => node.restart(reboots),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_of_events_keeps_the_rules_and_ends_well(
        happenings in prop::collection::vec(happening(), 1..120),
        polls in any::<bool>(),
        asks in any::<bool>(),
        restored in any::<bool>(),
        retire in prop::sample::select(vec![Some(0), Some(700), None]),
        chance in 0.0..1.0,
    ) {
        let mut node = if restored { Node::restored() } else { Node::new() };
        node.context.chance = chance;
        node.context.policy.asks = asks;
        node.context.policy.retire = retire.map(Duration::from_secs);
        if !polls {
            node.context.policy.poll = None;
        }
        for happening in happenings {
            happen(&mut node, &happening);
            node.check();
        }
        node.come_to_rest();
        // What goes right from now on goes right for every workload.
        if !polls {
            node.take(Event::Reconcile(None)).unwrap();
            node.come_to_rest();
        }
        node.check_rest();
        // Asked to look again, the node has what the tags lead to now.
        node.take(Event::Reconcile(None)).unwrap();
        node.come_to_rest();
        node.check_rest();
        node.check_images();
    }
}

#[test]
fn the_images_of_this_test_differ_and_one_is_a_digest() {
    let node = Node::new();
    assert_ne!(node.image(ONE), node.image(TWO));
    assert!(node::reference(2).contains("@sha256:"));
}
