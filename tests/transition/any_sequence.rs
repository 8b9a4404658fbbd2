//! Whatever happens, in whatever order: what must hold after every event, and where it all ends.

mod node;

use std::time::Duration;

use proptest::prelude::*;

use self::node::{Ending, IMAGES, NAMES, Node, name};
use super::scene::{ONE, TWO, failure, nothing_missing};
use eci_agent::agent::{Event, Outcome, Reject};
use eci_agent::failure::Retry;

/// Something that can happen to a node.
#[derive(Clone, Debug)]
enum Happening {
    /// The desired-state file names another of [`IMAGES`] for one of [`NAMES`], or names it no more.
    Desire(usize, Option<usize>),
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
        4 => (0..NAMES.len(), prop::option::of(0..IMAGES.len())).prop_map(|(whose, image)| Happening::Desire(whose, image)),
        1 => Just(Happening::Break),
        24 => (0..NAMES.len(), ending()).prop_map(|(whose, ending)| Happening::End(whose, ending)),
        1 => (0..NAMES.len()).prop_map(Happening::Misplace),
        2 => Just(Happening::EndLate),
        1 => prop::option::of(0..NAMES.len()).prop_map(Happening::Reconcile),
        3 => (0..2000_u64).prop_map(|s| Happening::Sleep(Duration::from_secs(s))),
        1 => Just(Happening::MoveTags),
    ]
}

fn happen(node: &mut Node, happening: &Happening) {
    match *happening {
        Happening::Desire(whose, image) => node.desire(whose, image),
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
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_of_events_keeps_the_rules_and_ends_well(
        happenings in prop::collection::vec(happening(), 1..120),
        polls in any::<bool>(),
        restored in any::<bool>(),
        chance in 0.0..1.0,
    ) {
        let mut node = if restored { Node::restored() } else { Node::new() };
        node.context.chance = chance;
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
