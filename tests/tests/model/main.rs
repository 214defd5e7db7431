//! Every interleaving of small graphs, two or three workers and a bounded number of faults, with the
//! executable specification as the store: what is promised holds in each state that can be reached.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]
#![allow(clippy::print_stdout, reason = "how many states there are is worth knowing")]
#![allow(clippy::unused_self, reason = "the steps of the system are methods of it, all alike")]

mod book;
mod commits;
mod graph;
mod plant;
mod worker;
mod world;

use std::collections::BTreeSet;
use std::time::Instant;

use graph::Graph;
use plant::Plant;
use stateright::{Checker, DiscoveryClassification, HasDiscoveries, Model};
use world::{Faults, System};

/// Both cores of a small machine.
const THREADS: usize = 2;
/// Properties that some state must have, or the others would say little.
const RARE_EVENTS: usize = 4;

const NONE: Faults =
    Faults { lose: 0, duplicate: 0, crash: 0, pause: 0, lose_reply: 0, fail: 0, rollback: 0 };
const LOSE: Faults = Faults { lose: 1, ..NONE };
const DUPLICATE: Faults = Faults { duplicate: 1, ..NONE };
const CRASH: Faults = Faults { crash: 1, ..NONE };
const PAUSE: Faults = Faults { pause: 1, ..NONE };
const LOSE_REPLY: Faults = Faults { lose_reply: 1, ..NONE };
const FAIL: Faults = Faults { fail: 2, ..NONE };
const ROLL_BACK: Faults = Faults { rollback: 1, ..NONE };

fn single() -> Graph {
    Graph::new(&[&[]])
}

fn pair() -> Graph {
    Graph::new(&[&[], &[0]])
}

fn chain() -> Graph {
    Graph::new(&[&[], &[0], &[1]])
}

fn diamond() -> Graph {
    Graph::new(&[&[], &[0], &[0], &[1, 2]])
}

fn fan_in() -> Graph {
    Graph::new(&[&[], &[], &[0, 1]])
}

/// Two workers that are `eager` or not.
fn two(graph: Graph, eager: bool, faults: Faults) -> System {
    System { graph, workers: 2, faults, eager, plant: None }
}

/// What is explored to its end.
fn systems() -> Vec<(&'static str, System)> {
    let three = |faults| System { workers: 3, ..two(single(), true, faults) };
    vec![
        (
            "single, three workers, a crash and a pause",
            three(Faults { crash: 2, pause: 1, ..NONE }),
        ),
        ("single, three workers, a rollback", three(Faults { rollback: 2, lose: 1, ..NONE })),
        ("pair, a crash", two(pair(), true, CRASH)),
        ("pair, a pause", two(pair(), true, PAUSE)),
        ("pair, a rollback", two(pair(), true, ROLL_BACK)),
        ("pair, a message twice", two(pair(), true, DUPLICATE)),
        ("pair, an effect, a crash", two(pair().with_effect(0), true, CRASH)),
        ("pair, an effect, a pause", two(pair().with_effect(0), true, PAUSE)),
        ("pair, an effect, a rollback", two(pair().with_effect(0), true, ROLL_BACK)),
        ("pair, failures", two(pair().with_failures_of(0), true, FAIL)),
        (
            "pair, failures and a pause",
            two(pair().with_failures_of(0), true, Faults { fail: 1, ..PAUSE }),
        ),
        ("chain, no fault", two(chain(), true, NONE)),
        ("chain, a lost message", two(chain(), true, LOSE)),
        ("chain, a crash", two(chain(), true, CRASH)),
        ("fan-in, a message twice", two(fan_in(), false, DUPLICATE)),
        ("fan-in, a crash", two(fan_in(), false, CRASH)),
        ("fan-in, a rollback", two(fan_in(), false, ROLL_BACK)),
        ("diamond, a lost message", two(diamond(), false, LOSE)),
        ("diamond, a lost reply", two(diamond(), false, LOSE_REPLY)),
        ("diamond, a message twice", two(diamond(), false, DUPLICATE)),
    ]
}

/// Explores all of a system; how many states it has, and which rare events were seen.
fn explore(name: &str, system: System) -> (usize, BTreeSet<&'static str>) {
    let started = Instant::now();
    let checker = system.checker().threads(THREADS).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{states:>8} states in {:>5.1} s: {name}", started.elapsed().as_secs_f32());
    let mut seen = BTreeSet::new();
    for (property, path) in checker.discoveries() {
        match checker.discovery_classification(property) {
            DiscoveryClassification::Example => drop(seen.insert(property)),
            DiscoveryClassification::Counterexample => {
                panic!("{name}: not always so: {property}, after {:#?}", path.into_actions())
            }
        }
    }
    (states, seen)
}

#[test]
fn every_state_that_can_be_reached_keeps_the_promise() {
    let (mut states, mut seen) = (0, BTreeSet::new());
    for (name, system) in systems() {
        let (found, events) = explore(name, system);
        states += found;
        seen.extend(events);
    }
    println!("{states} states, among them: {seen:?}");
    assert_eq!(seen.len(), RARE_EVENTS, "not all of the rare events happened: {seen:?}");
    assert!(states >= 1_000_000, "{states} states are not enough");
}

/// Whether one of the properties fails when a rule is left out.
fn is_found(plant: Plant, system: System) -> bool {
    let system = System { plant: Some(plant), ..system };
    let checker = system.checker().threads(THREADS).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.target_state_count(400_000).spawn_bfs().join();
    let found = checker.discoveries();
    let failed = |name: &&'static str| {
        matches!(checker.discovery_classification(name), DiscoveryClassification::Counterexample)
    };
    let failed: BTreeSet<&str> = found.keys().copied().filter(|name| failed(name)).collect();
    println!("{plant:?}: {failed:?}");
    !failed.is_empty()
}

#[test]
fn rules_left_out_are_missed() {
    let planted = [
        (Plant::AnyGeneration, two(pair(), false, Faults { duplicate: 1, crash: 1, ..NONE })),
        (Plant::NoFence, two(single().with_effect(0), false, PAUSE)),
        (Plant::ReleaseTwice, two(fan_in(), false, NONE)),
        (Plant::ForgetConsumed, two(chain(), false, NONE)),
        (Plant::RearmWithoutBlocking, two(pair(), false, CRASH)),
        (Plant::KeepAfterLoss, two(pair(), true, DUPLICATE)),
        (Plant::TrustThePast, two(pair(), true, ROLL_BACK)),
        (Plant::IgnoreRefusal, two(single().with_effect(0), false, DUPLICATE)),
        (Plant::NeverScan, two(single(), false, LOSE)),
        (Plant::ServeUncommitted, two(pair(), true, DUPLICATE)),
    ];
    let missed: Vec<Plant> = planted
        .into_iter()
        .filter(|(plant, system)| !is_found(*plant, system.clone()))
        .map(|(plant, _)| plant)
        .collect();
    assert!(missed.is_empty(), "nothing fails without these rules: {missed:?}");
}
