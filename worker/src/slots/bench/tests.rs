//! Which task is next.

use std::sync::Arc;

use bolthole_broker::descriptor::{Chunk, Descriptor};
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::task::TaskClass;

use super::*;
use crate::flight::TaskInfo;

/// Tasks of these ranks and priorities, by index.
fn tasks(ranks: &[(u16, i8)]) -> Vec<Runnable> {
    tasks_of(RunId::new(0, 1), ranks)
}

fn tasks_of(run: RunId, ranks: &[(u16, i8)]) -> Vec<Runnable> {
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
}

#[test]
fn an_older_run_does_not_wait_behind_a_deeper_one() {
    let mut bench = bench(&[(0, 0), (1, 0)], Order::Path);
    bench.extend(tasks_of(RunId::new(0, 2), &[(7, 0), (8, 1)]));
    let runs = taken(&mut bench);
    assert_eq!(runs, [1, 1, 0, 0], "by priority, run and rank");
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
