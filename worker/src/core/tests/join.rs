//! Tasks that use several results which are here and not committed.

use super::*;

impl Desk {
    /// Two tasks without inputs, one that uses both, and one that uses that; the first two on slots.
    async fn diamond(now: Instant) -> Self {
        let mut desk = Self::new(1).await;
        let task = |index: u16, inputs: &[u16], successors: &[u16]| {
            let ids =
                |indexes: &[u16]| indexes.iter().map(|index| TaskId::new(0, *index)).collect();
            let (inputs, successors) = (ids(inputs), ids(successors));
            Descriptor {
                id: TaskId::new(0, index),
                class: 0,
                rank: 0,
                inputs,
                successors,
                args: vec![],
            }
        };
        let tasks = vec![
            task(0, &[], &[2]),
            task(1, &[], &[2]),
            task(2, &[0, 1], &[3]),
            task(3, &[2], &[]),
        ];
        desk.chunk = Arc::new(Chunk { classes: desk.chunk.classes.clone(), tasks });
        desk.core.task_seconds = 1e-5;
        desk.deliver(&[0, 1], now);
        desk.start(0, now);
        desk.start(1, now);
        desk
    }
}

#[tokio::test(start_paused = true)]
async fn it_runs_when_the_last_of_them_is_here() {
    let now = Instant::now();
    let mut desk = Desk::diamond(now).await;
    assert!(prepared(&desk.end(0, now)).is_empty());
    assert_eq!(prepared(&desk.end(1, now)), [(2, false)]);
    desk.start(2, now);
    assert_eq!(prepared(&desk.end(2, now)), [(3, false)]);
    let finished = desk.commit(now).finished;
    assert_eq!(finished.iter().map(|finished| finished.index).collect::<Vec<_>>(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn it_goes_when_one_of_them_loses() {
    let now = Instant::now();
    let mut desk = Desk::diamond(now).await;
    desk.end(0, now);
    let commit = desk.commit(now);
    assert_eq!(prepared(&desk.end(1, now)), [(2, false)], "while the other is being committed");
    desk.start(2, now);
    let state = StateByte::new(TaskState::Done, 0);
    let lost = Committed::Superseded(vec![(state, Locator::embed(&[8]).unwrap())]);
    desk.answer(&commit, lost, now);
    assert!(prepared(&desk.end(2, now)).is_empty(), "it was dropped");
    let finished = desk.commit(now).finished;
    assert_eq!(finished.iter().map(|finished| finished.index).collect::<Vec<_>>(), [1]);
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_those_that_others_have() {
    let now = Instant::now();
    let mut desk = Desk::diamond(now).await;
    desk.core.on_taken_back(&[key(1)], now);
    assert!(prepared(&desk.end(0, now)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn where_tasks_are_long_it_waits_for_the_commit() {
    let now = Instant::now();
    let mut desk = Desk::diamond(now).await;
    desk.core.task_seconds = 1.0;
    desk.end(0, now);
    assert!(prepared(&desk.end(1, now)).is_empty(), "others may be before it in the order");
}

#[tokio::test(start_paused = true)]
async fn what_is_shared_before_its_commit_goes_to_others_with_it() {
    let now = Instant::now();
    let mut desk = Desk::diamond(now).await;
    desk.end(0, now);
    desk.end(1, now);
    desk.start(2, now);
    assert!(publishes(desk.core.on_taken_back(&[key(2)], now)).is_empty(), "it is not ready");
    let commit = desk.commit(now);
    let ready = vec![Ready::first(TaskId::new(0, 2))];
    let publishes = publishes(desk.answer(&commit, written(ready.clone()), now));
    assert_eq!(publishes.len(), 1);
    assert_eq!(publishes[0].ready, ready);
}
