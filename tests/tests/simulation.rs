//! Random graphs on simulated clusters with random faults. More of them: `simulate --seeds N`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should fail")]

use bolthole_tests::simulation::{Case, Summary, play_all};

/// As many as take some seconds.
const SEEDS: u64 = 200;

#[test]
fn whatever_goes_wrong_the_results_are_those_of_the_graph_run_in_order() {
    let mut summary = Summary::default();
    let mut broken = Vec::new();
    play_all(
        0..SEEDS,
        |seed| Case::play(seed, false),
        |case| {
            summary.add(&case);
            if !case.findings.is_empty() {
                broken.push(case.to_string());
            }
        },
    );
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    // A fault that never came to pass proves nothing.
    for fault in bolthole::testing::Kind::ALL {
        assert!(summary.faults.contains_key(fault.name()), "{fault:?} is missing: {summary}");
    }
    for event in ["cut short", "run elsewhere", "recomputed"] {
        assert!(summary.sometimes[event] > 0, "{event} is missing: {summary}");
    }
}

#[test]
fn a_seed_determines_every_step() {
    let twice = |seed| (Case::play(seed, false), Case::play(seed, false));
    play_all(1_000..1_040, twice, |(first, second)| {
        assert_eq!(first.report.trace, second.report.trace, "seed {}", first.seed);
        assert_eq!(first.report.executions, second.report.executions, "seed {}", first.seed);
    });
}
