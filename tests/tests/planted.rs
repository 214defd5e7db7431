//! A test of the tests: with any of a list of mistakes in the functions of the store, the comparison
//! with the specification fails.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]
#![allow(clippy::print_stdout, reason = "how soon each mistake is noticed is worth knowing")]

use bolthole_tests::conformance::store::planted::MISTAKES;
use bolthole_tests::conformance::store::world::{Ground, World, history};
use tokio::runtime::Runtime;

/// Histories within which a mistake must be noticed; most are within ten.
const HISTORIES: u64 = 400;
const STEPS: usize = 60;

/// Whether a history goes wrong with these functions.
fn fails(runtime: &Runtime, ground: &mut Ground, functions: &str, seed: u64) -> bool {
    ground.load(functions).unwrap();
    let walk = async { World::open(ground, seed).await?.walk(&history(seed, STEPS)).await };
    let differs = runtime.block_on(walk).is_err();
    let left = ground.server().cli(["DBSIZE"]).unwrap() != "0";
    ground.clear().unwrap();
    differs || left
}

#[test]
fn every_mistake_in_the_functions_is_noticed() {
    let runtime = Runtime::new().unwrap();
    let mut ground = runtime.block_on(Ground::new()).unwrap();
    let right = ground.functions().unwrap();
    let mut survivors = Vec::new();
    for mistake in MISTAKES {
        let what = mistake.what;
        let wrong = mistake.plant(&right);
        let wrong = wrong.unwrap_or_else(|| panic!("the functions have changed: {what}"));
        let noticed = (0..HISTORIES).find(|seed| fails(&runtime, &mut ground, &wrong, *seed));
        let Some(seed) = noticed else {
            survivors.push(what);
            continue;
        };
        println!("{:>3} histories: {what}", seed + 1);
        assert!(!fails(&runtime, &mut ground, &right, seed), "history {seed} fails without it");
    }
    println!("{} mistakes planted", MISTAKES.len());
    assert!(survivors.is_empty(), "not noticed in {HISTORIES} histories each: {survivors:#?}");
}
