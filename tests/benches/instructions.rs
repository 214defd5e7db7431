//! Instructions and allocations of what every task goes through, counted by valgrind, so that a
//! regression shows however busy the machine is: run with
//! `cargo bench -p bolthole-tests --bench instructions`, after
//! `cargo install gungraun-runner --version 0.20.0`. It fails when a part takes more than the limits here:
//! what was measured when they were written, and a twentieth.
//!
//! Each number is for [`TASKS`] tasks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]
#![allow(missing_docs, reason = "the macros write public functions")]

use std::collections::BTreeMap;
use std::hint::black_box;

use bolthole::Delayed;
use bolthole::capture::capture;
use bolthole::testing::Simulation;
use bolthole_broker::graph::{Captured, Plan, Segment, plan};
use bolthole_broker::id::{Incarnation, RunId, TaskId};
use bolthole_broker::limits::CHUNK_TASKS;
use bolthole_broker::locator::Locator;
use bolthole_broker::parcel::{Addressed, Parcel};
use bolthole_broker::run::{Activate, Commit, Committed, End, Finished, Open, OutboxId, Stage};
use bolthole_broker::state::FailurePolicy;
use bolthole_broker::store::{self, Epoch, Memory, Store};
use bolthole_tests::bench::tasks::{add, noop};
use bytes::Bytes;
use futures_util::FutureExt as _;
use gungraun::prelude::*;
use gungraun::{Callgrind, CallgrindMetrics, Dhat, DhatMetric, EntryPoint, EventKind};

/// In each of the graphs, about.
const TASKS: u16 = 1_024;
/// In a parcel and in a commit.
const BATCH: u16 = 64;

/// No more than so many instructions and allocations, of the function alone.
fn limits(instructions: u64, allocations: u64) -> LibraryBenchmarkConfig {
    limits_of(EntryPoint::Default, instructions, allocations)
}

fn limits_of(entry: EntryPoint, instructions: u64, allocations: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::with_args(["--cache-sim=no", "--separate-threads=no"]);
    callgrind
        .entry_point(entry.clone())
        .format([CallgrindMetrics::SingleEvent(EventKind::Ir)])
        .hard_limits([(EventKind::Ir, instructions)]);
    let mut dhat = Dhat::default();
    dhat.entry_point(entry)
        .format([DhatMetric::TotalBlocks, DhatMetric::TotalBytes])
        .hard_limits([(DhatMetric::TotalBlocks, allocations)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind).tool(dhat);
    config
}

/// A binary tree of sums.
fn tree() -> Delayed<u64> {
    let mut row: Vec<_> = (0..u64::from(TASKS) / 2).map(noop::delayed).collect();
    while row.len() > 1 {
        row = row.chunks(2).map(|two| add::delayed(&two[0], &two[1])).collect();
    }
    row.swap_remove(0)
}

#[library_benchmark(config = limits(2_950_000, 2_200))]
#[bench::tree(tree())]
fn captured(root: Delayed<u64>) -> Captured {
    capture(&[&root]).unwrap()
}

fn graph() -> Captured {
    capture(&[&tree()]).unwrap()
}

#[library_benchmark(config = limits(2_170_000, 1_130))]
#[bench::tree(graph())]
fn planned(graph: Captured) -> Plan {
    plan(graph).unwrap()
}

#[library_benchmark(config = limits(3_400_000, 745))]
#[bench::tree(plan(graph()).unwrap())]
fn cut(plan: Plan) -> Segment {
    plan.cut(0).next_segment().unwrap().unwrap()
}

/// A segment whose tasks all are sources.
fn sources() -> Segment {
    let tasks: Vec<_> = (0..u64::from(TASKS)).map(noop::delayed).collect();
    let tasks: Vec<_> = tasks.iter().map(|task| task as _).collect();
    let plan = plan(capture(&tasks).unwrap()).unwrap();
    plan.cut(0).next_segment().unwrap().unwrap()
}

fn parcels(segment: &Segment) -> Vec<Addressed> {
    let epoch = Epoch::unknown();
    let (header, batch) = (BTreeMap::default(), usize::from(BATCH));
    segment.source_parcels(RunId::new(7, 7), &epoch, &header, batch).unwrap()
}

#[library_benchmark(config = limits(2_590_000, 1_700))]
#[bench::sources(sources())]
fn packed(segment: Segment) -> Vec<Addressed> {
    parcels(&segment)
}

#[library_benchmark(config = limits(1_330_000, 1_215))]
#[bench::sources(parcels(&sources()))]
fn unpacked(parcels: Vec<Addressed>) -> usize {
    let decoded = parcels.iter().map(|parcel| Parcel::decode(&parcel.bytes).unwrap());
    decoded.map(|parcel| black_box(parcel).tasks.len()).sum()
}

/// Commits of the first half of a segment, each of whose tasks releases one of the other half.
fn commits() -> Vec<Commit> {
    let end =
        || End::Done { locator: Locator::embed(b"1").unwrap(), record: Bytes::new(), keep: false };
    let finished = |index| Finished { index, generation: 0, end: end(), lease: None };
    let commit = |first: u16| {
        let tasks = first..first + BATCH;
        Commit {
            segment: 0,
            finished: tasks.clone().map(finished).collect(),
            releases: tasks.map(|index| (TaskId::new(0, index + TASKS), 1)).collect(),
            consumed: Vec::new(),
            outbox: OutboxId { owner: Incarnation::new(7), sequence: first.into() },
            settled: first.checked_sub(BATCH).map(u64::from).into_iter().collect(),
            spawn: None,
        }
    };
    (0..TASKS).step_by(BATCH.into()).map(commit).collect()
}

#[library_benchmark(config = limits(466_000, 540))]
#[bench::releases(commits())]
fn encoded(commits: Vec<Commit>) -> usize {
    commits.iter().map(|commit| black_box(store::fuzz::commit(commit)).len()).sum()
}

/// A store, and what is to be committed to it. Without servers nothing in it waits.
fn staged() -> (Store, RunId, Vec<Commit>) {
    let (store, run) = (Store::Memory(Memory::default()), RunId::new(7, 7));
    let open = Open {
        name: None,
        digest: [0; 32],
        policy: FailurePolicy::FailFast,
        header: BTreeMap::default(),
        client_lease_ms: 60_000,
        retention_ms: 60_000,
    };
    store.open(run, &open).now_or_never().unwrap().unwrap();
    let all = 2 * usize::from(TASKS);
    let digest = [1; 16];
    let pending = (0..all).map(|task| u32::from(task >= TASKS.into())).collect();
    let chunks = vec![Bytes::from_static(b"chunk"); all / CHUNK_TASKS];
    let stage = Stage { segment: 0, digest, pending, consumers: vec![1; all], chunks };
    store.stage(run, &stage).now_or_never().unwrap().unwrap();
    let activate = Activate { segment: 0, digest, cursor: 0, edges: vec![], last: true };
    store.activate(run, &activate).now_or_never().unwrap().unwrap();
    (store, run, commits())
}

#[library_benchmark(config = limits(1_510_000, 372))]
#[bench::releases(staged())]
fn committed((store, run, commits): (Store, RunId, Vec<Commit>)) -> usize {
    let commit = |commit: &Commit| match store.commit(run, commit).now_or_never().unwrap() {
        Ok(Committed::Written { ready, .. }) => ready.len(),
        other => panic!("{other:?}"),
    };
    commits.iter().map(commit).sum()
}

// All of it: client, worker and store in one thread, which is not this one, by a clock of their own.
#[library_benchmark(config = limits_of(EntryPoint::None, 60_800_000, 42_200))]
#[bench::tree(Simulation::new(7).workers(1).slots(2), tree())]
fn simulated(mut cluster: Simulation, root: Delayed<u64>) -> u64 {
    cluster.compute(root).unwrap()
}

library_benchmark_group!(
    name = per_task,
    benchmarks = [captured, planned, cut, packed, unpacked, encoded, committed, simulated]
);
main!(library_benchmark_groups = per_task);
