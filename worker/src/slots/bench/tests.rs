//! Which task is next.

use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::descriptor::{Chunk, Descriptor};
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::task::TaskClass;

use super::*;
use crate::flight::TaskInfo;

/// Tasks of these ranks and priorities, by index, of the first run.
fn tasks(ranks: &[(u16, i8)]) -> Vec<Runnable> {
    tasks_of(1, ranks)
}

fn number(run: RunId) -> u128 {
    if run == RunId::new(0, 1) { 1 } else { 2 }
}

fn tasks_of(run: u128, ranks: &[(u16, i8)]) -> Vec<Runnable> {
    let run = RunId::new(0, run);
    let task = |(&(rank, _), index): (&(u16, i8), u16)| Descriptor {
        id: TaskId::new(0, index),
        class: u32::from(index),
        rank,
        inputs: vec![],
        successors: vec![],
        args: vec![],
    };
    let class = |&(_, priority): &(u16, i8)| {
        let mut class = TaskClass::relay("default");
        class.options.priority = priority;
        class
    };
    let chunk = Arc::new(Chunk {
        classes: ranks.iter().map(class).collect(),
        tasks: ranks.iter().zip(0..).map(task).collect(),
    });
    let info = |task: &Descriptor| TaskInfo::find(&chunk, task.id.index()).unwrap();
    chunk.tasks.iter().map(|task| Runnable::without_a_body(run, info(task))).collect()
}

fn bench(ranks: &[(u16, i8)], order: Order) -> Bench {
    let mut bench = Bench::new(BTreeMap::new());
    bench.slots = 1;
    bench.set_order(order);
    bench.extend(tasks(ranks));
    bench
}

/// The tasks in the order in which one slot takes them.
fn taken(bench: &mut Bench) -> Vec<u16> {
    let mut next = || {
        let task = bench.take(1)?;
        bench.give_back(1);
        Some(task.key.1.index())
    };
    std::iter::from_fn(&mut next).collect()
}

#[test]
fn by_priority_and_then_as_the_order_says() {
    let ranks = [(0, 0), (3, 0), (1, 0), (3, 0), (0, 1)];
    assert_eq!(taken(&mut bench(&ranks, Order::Cone)), [4, 0, 1, 2, 3]);
    assert_eq!(taken(&mut bench(&ranks, Order::Path)), [4, 1, 3, 2, 0]);
    let mut late = bench(&ranks, Order::Arrival);
    let first = tasks(&ranks[..1]);
    assert_eq!(late.take(1).map(|task| task.key.1.index()), Some(4));
    late.give_back(1);
    assert_eq!(late.take(1).map(|task| task.key.1.index()), Some(0));
    late.give_back(1);
    late.extend(first);
    assert_eq!(taken(&mut late), [1, 2, 3, 0], "it came last");
}

/// Which runs get a slot that is used for so long by each of their tasks, in turn.
async fn runs_taken(bench: &mut Bench, count: usize, used: impl Fn(u128) -> u64) -> Vec<u128> {
    let mut runs = Vec::new();
    for _ in 0..count {
        let Some(task) = bench.take(1) else { break };
        let run = number(task.key.0);
        tokio::time::advance(Duration::from_millis(used(run))).await;
        bench.give_back(1);
        runs.push(run);
    }
    runs
}

#[tokio::test(start_paused = true)]
async fn the_run_that_has_had_less_time_is_next_whatever_its_ranks() {
    let mut bench = bench(&[(9, 0); 20], Order::Path);
    bench.extend(tasks_of(2, &[(0, 0); 20]));
    let runs = runs_taken(&mut bench, 9, |run| if run == 1 { 10 } else { 5 }).await;
    assert_eq!(runs, [1, 2, 2, 1, 2, 2, 1, 2, 2], "equal time, not equally many");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_comes_later_is_owed_nothing_for_the_time_before() {
    let mut bench = bench(&[(0, 0); 20], Order::Cone);
    assert_eq!(runs_taken(&mut bench, 5, |_| 10).await, [1; 5]);
    bench.extend(tasks_of(2, &[(0, 0); 3]));
    assert_eq!(runs_taken(&mut bench, 6, |_| 10).await, [1, 2, 1, 2, 1, 2]);
    // It has nothing left and comes again.
    assert_eq!(runs_taken(&mut bench, 3, |_| 10).await, [1; 3]);
    bench.extend(tasks_of(2, &[(0, 0); 1]));
    assert_eq!(runs_taken(&mut bench, 3, |_| 10).await, [1, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_runs_counts_before_it_has_ended() {
    let mut bench = bench(&[(0, 0); 20], Order::Cone);
    bench.slots = 4;
    bench.extend(tasks_of(2, &[(0, 0); 20]));
    assert_eq!(runs_taken(&mut bench, 2, |_| 10).await, [1, 2]);
    let runs: Vec<u128> = (1..=4).map(|slot| number(bench.take(slot).unwrap().key.0)).collect();
    assert_eq!(runs, [1, 2, 1, 2], "four slots at once");
}

#[tokio::test(start_paused = true)]
async fn sources_are_held_for_a_while_before_results_go_to_disk() {
    let mut bench = bench(&[(0, 0); 3], Order::Cone);
    for _ in 0..2 {
        bench.set_pressure(Pressure::Spill, Instant::now());
        assert!(bench.take(1).is_none() && bench.held_for(Instant::now()).is_some());
        tokio::time::advance(limits::SPILL_GRACE / 2).await;
        // Fuller still, which begins nothing anew.
        bench.set_pressure(Pressure::High, Instant::now());
        assert!(bench.take(1).is_none());
        tokio::time::advance(limits::SPILL_GRACE / 2).await;
        assert!(bench.held_for(Instant::now()).is_none() && bench.take(1).is_some());
        bench.give_back(1);
        bench.set_pressure(Pressure::Filling, Instant::now());
    }
    assert!(bench.take(1).is_some());
}

#[test]
fn priority_goes_before_shares() {
    let mut bench = bench(&[(0, 0), (1, 0)], Order::Path);
    bench.extend(tasks_of(2, &[(7, 1), (8, 1)]));
    assert_eq!(taken(&mut bench), [1, 0, 1, 0]);
}

#[test]
fn what_does_not_fit_holds_no_other_run_up() {
    let mut bench = bench(&[(0, 0)], Order::Cone);
    bench.extend(tasks_of(2, &[(0, 0)]));
    let found = bench.waiting.take(|task| number(task.key.0) == 2).map(|task| number(task.key.0));
    assert_eq!(found, Some(2));
    assert!(
        bench.waiting.take(|task| number(task.key.0) == 2).is_none() && bench.waiting.len() > 0
    );
}

#[tokio::test(start_paused = true)]
async fn a_slot_runs_on_for_a_turn_and_not_longer() {
    let chain = tasks(&[(0, 0); 8]);
    let mut bench = bench(&[(0, 0)], Order::Cone);
    bench.take(1);
    bench.extend(tasks_of(2, &[(0, 0)]));
    let mut followed = 0;
    for next in &chain {
        tokio::time::advance(Duration::from_millis(1)).await;
        followed += u32::from(bench.follow(1, next));
    }
    assert_eq!(followed, 4, "3 ms more than the other one, and the one that was running");
    bench.give_back(1);
    assert_eq!(bench.take(1).map(|task| number(task.key.0)), Some(2));
}

#[test]
fn what_waits_already_is_put_into_the_new_order() {
    let mut bench = bench(&[(0, 0), (2, 0), (1, 0)], Order::Path);
    assert_eq!(bench.take(1).map(|task| task.key.1.index()), Some(1));
    bench.give_back(1);
    bench.set_order(Order::Cone);
    assert_eq!(taken(&mut bench), [0, 2]);
}

#[test]
fn a_slot_runs_on_only_with_what_would_be_the_next() {
    let ranks = [(0, 0), (2, 0), (1, 0), (3, 0)];
    let all = tasks(&ranks);
    for (order, first, last) in [(Order::Path, 3, 0), (Order::Cone, 0, 3_u16)] {
        let mut bench = bench(&ranks, order);
        assert_eq!(bench.take(1).map(|task| task.key.1.index()), Some(first));
        let (first, last) = (&all[usize::from(first)], &all[usize::from(last)]);
        assert!(!bench.follow(1, last) && bench.follow(1, first), "{order:?}");
    }
}
