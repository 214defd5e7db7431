//! The core alone: events by hand, effects looked at.

mod follow;
mod join;
mod life;
mod near;

use std::collections::BTreeSet;

use bolthole_broker::descriptor::Descriptor;
use bolthole_broker::limits;
use bolthole_broker::locator::Locator;
use bolthole_broker::queue::{ConsumeOptions, Event, Queue, QueueName, Route};
use bolthole_broker::run::{Committed, End, Leased, Setback};
use bolthole_broker::state::{RunState, StateByte, TaskState};
use bolthole_broker::store::Epoch as StoreEpoch;
use bolthole_broker::task::TaskClass;
use bytes::Bytes;

use super::*;
use crate::flight::{Ended, Finish, Prepared};

const RUN: fn() -> RunId = || RunId::new(0, 1);

/// A chain of four tasks on a worker of one slot.
struct Desk {
    core: Core,
    chunk: Arc<Chunk>,
    deliveries: Vec<Delivery>,
}

impl Describe for Arc<Chunk> {
    fn describe(&self, _: RunId, task: TaskId) -> Option<TaskInfo> {
        TaskInfo::find(self, task.index())
    }

    fn has(&self, _: Key) -> bool {
        false
    }
}

fn key(index: u16) -> Key {
    (RUN(), TaskId::new(0, index))
}

/// A worker of one slot that has nothing yet.
pub(super) fn core() -> Core {
    Core::new(Identity {
        incarnation: Incarnation::new(1),
        address: "here".to_owned(),
        slots: 1,
        order: None,
        without: Vec::new(),
        queues: ["default".to_owned()].into(),
        tasks_per_commit: limits::COMMIT_TASKS_MAX,
    })
}

impl Desk {
    /// With so many deliveries at hand.
    async fn new(deliveries: usize) -> Self {
        let queue = Queue::memory();
        let name = QueueName::default();
        for _ in 0..deliveries {
            queue.publish(&Route::hi(&name), Bytes::from_static(b"-")).await.unwrap();
        }
        let options =
            ConsumeOptions { queues: vec![name], prefetch_hi: 9, prefetch_lo: 9, presence: None };
        let mut consumer = queue.consume(options);
        let mut received = Vec::new();
        while received.len() < deliveries {
            if let Some(Event::Delivery(delivery)) = consumer.next().await {
                received.push(delivery);
            }
        }
        let task = |index: u16| Descriptor {
            id: TaskId::new(0, index),
            class: 0,
            rank: 0,
            inputs: index.checked_sub(1).map(|input| TaskId::new(0, input)).into_iter().collect(),
            successors: (index < 3).then(|| TaskId::new(0, index + 1)).into_iter().collect(),
            args: vec![],
        };
        let class = TaskClass { task: "test".to_owned(), ..TaskClass::relay("default") };
        let chunk = Arc::new(Chunk { classes: vec![class], tasks: (0..4).map(task).collect() });
        let core = core();
        received.reverse();
        Self { core, chunk, deliveries: received }
    }

    fn deliver(&mut self, indexes: &[u16], now: Instant) -> (Tag, Vec<Effect>) {
        let delivery = self.deliveries.pop().unwrap();
        let tasks = indexes.iter().map(|index| Ready::first(TaskId::new(0, *index))).collect();
        let epoch = StoreEpoch("memory".to_owned());
        let parcel = Parcel { run: RUN(), epoch, tasks, chunks: vec![], header: None };
        (delivery.tag, self.core.on_delivery(&delivery, parcel, Doubt::None, now))
    }

    /// Prepares a task and puts it on a slot as the attempt with its index as nonce.
    fn start(&mut self, index: u16, now: Instant) -> Vec<Effect> {
        self.start_as(index, 0, 0, now)
    }

    /// As a suspect, whose followers may be, too, and that has crashed so often.
    fn start_as(&mut self, index: u16, suspect: u16, crashes: u32, now: Instant) -> Vec<Effect> {
        let runnable = Runnable {
            nonce: u64::from(index) + 1,
            leased: suspect > 0,
            isolated: suspect > 0,
            suspect,
            crashes,
            ..Runnable::without_a_body(RUN(), TaskInfo::find(&self.chunk, index).unwrap())
        };
        self.core.on_prepared(vec![(key(index), Prepared::Run(Box::new(runnable)))], 0, now)
    }

    fn end(&mut self, index: u16, now: Instant) -> Vec<Effect> {
        let locator = Locator::embed(&[u8::try_from(index).unwrap()]).unwrap();
        self.end_as(index, Ended::Done(crate::flight::Kept { locator, record: Bytes::new() }), now)
    }

    fn end_as(&mut self, index: u16, ended: Ended, now: Instant) -> Vec<Effect> {
        let finish = Finish {
            key: key(index),
            nonce: u64::from(index) + 1,
            ended,
            spawn: None,
            took: Duration::from_millis(1),
            next: None,
        };
        let chunk = Arc::clone(&self.chunk);
        self.core.on_finished(vec![finish], &chunk, 0, now)
    }

    /// The commit that is due.
    fn commit(&mut self, now: Instant) -> Commit {
        match self.core.due_commits(now, Standing::IDLE).pop() {
            Some(Effect::Commit { commit, .. }) => Arc::unwrap_or_clone(commit),
            other => panic!("no commit but {other:?}"),
        }
    }

    fn answer(&mut self, commit: &Commit, reply: Committed, now: Instant) -> Vec<Effect> {
        let chunk = Arc::clone(&self.chunk);
        self.core.on_committed(commit.outbox, reply, &chunk, false, now)
    }

    fn tick(&mut self, on_slot: Option<(u16, Instant)>, now: Instant) -> Vec<Effect> {
        let attempt = |(index, since)| OnSlot {
            key: key(index),
            nonce: u64::from(index) + 1,
            since,
            begun: true,
        };
        let on_slots: Vec<OnSlot> = on_slot.map(attempt).into_iter().collect();
        self.core.on_tick(&on_slots, false, 0, now)
    }
}

fn written(ready: Vec<Ready>) -> Committed {
    Committed::Written { ready, freed: vec![], run: RunState::Closed }
}

fn acks(effects: &[Effect]) -> Vec<Tag> {
    let tags = effects.iter().filter_map(|effect| match effect {
        Effect::Ack(tag) => Some(*tag),
        _ => None,
    });
    tags.collect()
}

fn prepared(effects: &[Effect]) -> Vec<(u16, bool)> {
    let tasks = effects.iter().filter_map(|effect| match effect {
        Effect::Prepare { tasks, .. } => Some(tasks),
        _ => None,
    });
    tasks.flatten().map(|wanted| (wanted.ready.task.index(), wanted.doubt != Doubt::None)).collect()
}

fn publishes(effects: Vec<Effect>) -> Vec<Publish> {
    let publishes = effects.into_iter().filter_map(|effect| match effect {
        Effect::Publish(publish) => Some(publish),
        _ => None,
    });
    publishes.collect()
}

/// History 7a of `tests/tests/executions`: tasks ran on here from an uncommitted result, which a twin
/// was first to commit; theirs were accepted all the same.
#[tokio::test(start_paused = true)]
async fn what_was_computed_from_a_loser_is_dropped_with_it() {
    let (mut desk, now) = (Desk::new(1).await, Instant::now());
    let (tag, _) = desk.deliver(&[0], now);
    desk.start(0, now);
    assert_eq!(prepared(&desk.end(0, now)), [(1, false)], "runs on before the commit");
    desk.start(1, now);
    let commit = desk.commit(now);
    assert_eq!(prepared(&desk.end(1, now)), [(2, false)]);
    desk.start(2, now);
    let other = Locator::embed(&[99]).unwrap();
    let states = vec![(StateByte::new(TaskState::Done, 0), other)];
    let effects = desk.answer(&commit, Committed::Superseded(states), now);
    let discarded = effects.iter().filter(|effect| matches!(effect, Effect::Discard(_))).count();
    assert_eq!((discarded, acks(&effects).len()), (3, 0), "the third still runs");
    assert!(desk.core.due_commits(now, Standing::IDLE).is_empty());
    assert_eq!(acks(&desk.end(2, now)), [tag]);
    assert!(desk.core.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_comes_again_waits_for_the_attempt_that_runs() {
    let (mut desk, now) = (Desk::new(2).await, Instant::now());
    let (lost, _) = desk.deliver(&[3], now);
    desk.start(3, now);
    assert!(desk.core.on_session_lost(lost.epoch).len() == 1, "a lease is asked for");
    let (again, effects) = desk.deliver(&[3], now);
    assert!(effects.is_empty(), "neither run again nor acknowledged: {effects:?}");
    desk.end(3, now);
    let commit = desk.commit(now);
    assert_eq!(acks(&desk.answer(&commit, written(vec![]), now)), [again]);
    assert!(desk.core.is_idle());
}

#[tokio::test(start_paused = true)]
async fn another_result_than_the_one_that_was_used_is_noticed() {
    let (mut desk, now) = (Desk::new(1).await, Instant::now());
    desk.deliver(&[3], now);
    desk.start(3, now);
    desk.core.flights.get_mut(&key(3)).unwrap().earlier = Some([1; 16]);
    let effects = desk.end(3, now);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Differs { .. })), "{effects:?}");
    let commit = desk.commit(now);
    let End::Failed { error } = &commit.finished[0].end else { panic!("relays are pure") };
    let error = bolthole_broker::error::TaskError::decode(error).unwrap();
    assert_eq!(error.kind, bolthole_broker::error::TaskErrorKind::NonDeterministic);
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_session_the_store_is_asked_before_anything_starts() {
    let (mut desk, now) = (Desk::new(3).await, Instant::now());
    let (lost, effects) = desk.deliver(&[3], now);
    assert_eq!(prepared(&effects), [(3, false)]);
    assert!(desk.core.on_session_lost(lost.epoch).is_empty(), "it does not run yet");
    assert_eq!(prepared(&desk.start(3, now)), [(3, true)], "another may have it by now");
    desk.core.on_session_started(now);
    assert_eq!(prepared(&desk.deliver(&[0], now).1), [(0, true)]);
    let later = now + limits::SESSION_DOUBT;
    assert_eq!(prepared(&desk.deliver(&[1], later).1), [(1, false)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_worker_had_runs_here_as_far_as_there_is_room() {
    let (mut desk, now) = (Desk::new(1).await, Instant::now());
    desk.deliver(&[2], now);
    let all: Vec<Ready> = (0..4).map(|index| Ready::first(TaskId::new(0, index))).collect();
    desk.core.task_seconds = 1.0;
    let effects = desk.core.on_inherited(RUN(), all.clone());
    assert_eq!(prepared(&effects), [], "the only slot has a task");
    let [published] = &publishes(effects)[..] else { panic!("not published together") };
    assert_eq!((published.ready.len(), published.doubt), (3, Doubt::DEADLY));
    desk.core.on_prepared(vec![(key(2), Prepared::Drop { rearmed: vec![] })], 0, now);
    desk.core.on_prepared(vec![(key(2), Prepared::Drop { rearmed: vec![] })], 0, now);
    assert_eq!(prepared(&desk.core.on_inherited(RUN(), all)), [(0, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_rung_for_while_it_was_prepared_is_not_forgotten() {
    let (mut desk, now) = (Desk::new(2).await, Instant::now());
    desk.deliver(&[3], now);
    desk.deliver(&[3], now);
    let dropped = || vec![(key(3), Prepared::Drop { rearmed: vec![] })];
    let effects = desk.core.on_prepared(dropped(), 0, now);
    assert_eq!(prepared(&effects), [(3, true)], "the store is asked once more");
    assert_eq!(acks(&desk.core.on_prepared(dropped(), 0, now)).len(), 1);
    assert!(desk.core.is_idle());
}

#[tokio::test(start_paused = true)]
async fn confirms_are_waited_for_but_not_for_long() {
    let (mut desk, now) = (Desk::new(2).await, Instant::now());
    // A worker that is about to leave gives what has not begun to others.
    let (tag, _) = desk.deliver(&[1, 3], now);
    desk.start(1, now);
    let given = publishes(desk.core.on_drain(&[], now));
    assert_eq!(given.len(), 1);
    desk.end(1, now);
    let commit = desk.commit(now);
    let effects = desk.answer(&commit, written(vec![]), now);
    assert!(acks(&effects).is_empty(), "its publication is not confirmed");
    assert!(acks(&desk.tick(None, now + limits::ACK_WAIT_MAX / 2)).is_empty());
    assert_eq!(acks(&desk.tick(None, now + limits::ACK_WAIT_MAX)), [tag]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_keeps_what_runs_and_gives_back_the_rest() {
    let (mut desk, now) = (Desk::new(2).await, Instant::now());
    let (tag, _) = desk.deliver(&[1, 2, 3], now);
    desk.start(1, now);
    desk.start(2, now);
    // 1 runs, 2 is on the bench, 3 is being prepared.
    let given = publishes(desk.core.on_drain(&[key(2)], now));
    let tasks: Vec<u16> = given.iter().flat_map(|one| &one.ready).map(|r| r.task.index()).collect();
    assert_eq!(tasks, [2, 3]);
    for publish in &given {
        assert!(publish.doubt != Doubt::None);
        desk.core.on_published(publish, true, now);
    }
    assert!(matches!(desk.deliver(&[0], now).1[..], [Effect::GiveBack(_)]));
    desk.start(3, now);
    desk.end(1, now);
    let commit = desk.commit(now);
    let effects = desk.answer(&commit, written(vec![]), now);
    assert_eq!(acks(&effects), [tag]);
    assert!(desk.core.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_delivery_of_which_nothing_has_begun_goes_back_whole() {
    let (mut desk, now) = (Desk::new(2).await, Instant::now());
    let (tag, _) = desk.deliver(&[2, 3], now);
    desk.start(2, now);
    let effects = desk.core.on_drain(&[key(2)], now);
    assert!(matches!(effects[..], [Effect::GiveBack(given)] if given == tag), "{effects:?}");
    assert!(publishes(desk.start(3, now)).is_empty());
    assert!(desk.core.is_idle());
}

#[tokio::test(start_paused = true)]
async fn what_ran_ahead_of_a_commit_is_rung_for_once_it_is_released() {
    let (mut desk, now) = (Desk::new(1).await, Instant::now());
    let (tag, _) = desk.deliver(&[0], now);
    desk.start(0, now);
    assert_eq!(prepared(&desk.end(0, now)), [(1, false)], "runs on before the commit");
    desk.start(1, now);
    assert!(publishes(desk.core.on_drain(&[key(1)], now)).is_empty(), "its time has not come");
    let commit = desk.commit(now);
    let effects = desk.answer(&commit, written(vec![Ready::first(key(1).1)]), now);
    let published = publishes(effects);
    assert_eq!(published.len(), 1);
    assert_eq!(acks(&desk.core.on_published(&published[0], true, now)), [tag]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_finished_in_time_is_let_go_without_a_lease() {
    let (mut desk, now) = (Desk::new(1).await, Instant::now());
    desk.deliver(&[1, 2], now);
    desk.start(1, now);
    let later = now + limits::TASK_LEASE_AFTER;
    let effects = desk.tick(Some((1, now)), later);
    let asked = effects.iter().find_map(|effect| match effect {
        Effect::Lease { run, requests } => Some((*run, requests[0])),
        _ => None,
    });
    let (run, request) = asked.expect("it runs for long");
    let granted = || vec![(request, Leased::Granted { attempt: 1, crashes: None })];
    desk.core.on_leased(run, granted(), later);
    desk.core.on_drain(&[], later);
    let let_go = publishes(desk.core.on_let_go(later));
    assert_eq!(let_go.len(), 1, "{let_go:?}");
    assert_eq!(let_go[0].leases, [(request.task, request.nonce)]);
    assert_eq!(let_go[0].doubt, Doubt::Old);
    desk.core.on_published(&let_go[0], true, later);
    // The lease was prolonged while it was ended: whoever met it is rung for once more.
    let again = publishes(desk.core.on_leased(run, granted(), later));
    assert_eq!(again[0].leases, [(request.task, request.nonce)]);
    assert!(desk.end(1, later).iter().all(|effect| matches!(effect, Effect::Discard(_))));
}

/// History 12 of `tests/tests/executions`: parcels that were fetched ahead waited behind a long task
/// until the broker took the connection down.
#[tokio::test(start_paused = true)]
async fn a_delivery_held_for_too_long_is_handed_over() {
    let (mut desk, now) = (Desk::new(1).await, Instant::now());
    let (tag, _) = desk.deliver(&[1, 2], now);
    desk.start(1, now);
    desk.start(2, now);
    let late = now + limits::DELIVERY_HOLD_MAX;
    let effects = desk.tick(Some((1, late)), late);
    let leases: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Lease { requests, .. } => Some(requests.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(leases.len(), 1, "for the one that runs, however short: {effects:?}");
    assert!(effects.iter().any(|e| matches!(e, Effect::TakeBack(keys) if *keys == [key(2)])));
    let given = publishes(desk.core.on_taken_back(&[key(2)], late));
    desk.core.on_published(&given[0], true, late);
    let granted = vec![(leases[0], Leased::Granted { attempt: 1, crashes: None })];
    assert!(acks(&desk.core.on_leased(RUN(), granted, late)).is_empty());
    assert_eq!(acks(&desk.tick(Some((1, late)), late)), [tag]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_a_run_that_is_over() {
    let (mut desk, now) = (Desk::new(1).await, Instant::now());
    let (tag, _) = desk.deliver(&[0, 3], now);
    desk.start(0, now);
    desk.end(0, now);
    let commit = desk.commit(now);
    let reply = Committed::NotRunning(Some(RunState::Cancelled));
    let effects = desk.answer(&commit, reply, now);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::RunOver { gone: true, .. })));
    // What was on its way when the run ended ends by itself.
    let drop = |index| vec![(key(index), Prepared::Drop { rearmed: vec![] })];
    desk.core.on_prepared(drop(1), 0, now);
    assert_eq!(acks(&desk.core.on_prepared(drop(3), 0, now)), [tag]);
    assert!(desk.core.is_idle() && desk.core.releasing.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_counted_with_its_lease_and_the_third_is_the_end() {
    let (mut desk, now) = (Desk::new(1).await, Instant::now());
    let (tag, _) = desk.deliver(&[0], now);
    desk.start_as(0, 1, 1, now);
    let crashed = || Ended::Crashed { how: "it aborted".to_owned(), last_lines: vec![] };
    let effects = desk.end_as(0, crashed(), now);
    let retries: Vec<&Retry> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Retry { retry, .. } => Some(retry),
            _ => None,
        })
        .collect();
    let [retry] = retries[..] else { panic!("{effects:?}") };
    assert_eq!((retry.setback, retry.attempt, retry.lease), (Setback::Crashed, 2, Some(1)));
    assert_eq!(acks(&desk.core.on_retried(key(0), now)), [tag]);

    let mut desk = Desk::new(1).await;
    desk.deliver(&[0], now);
    desk.start_as(0, 1, limits::CRASHES_MAX - 1, now);
    assert!(desk.end_as(0, crashed(), now).is_empty());
    let End::Failed { error } = &desk.commit(now).finished[0].end else { panic!("no failure") };
    let error = bolthole_broker::error::TaskError::decode(error).unwrap();
    assert_eq!(error.kind, bolthole_broker::error::TaskErrorKind::Crashed);
    assert!(error.to_string().contains("3 processes"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_suspect_waits_for_its_commit_and_is_one_too() {
    let (mut desk, now) = (Desk::new(1).await, Instant::now());
    desk.deliver(&[0], now);
    desk.start_as(0, 2, 0, now);
    assert!(prepared(&desk.end(0, now)).is_empty(), "nothing runs on");
    let commit = desk.commit(now);
    let ready = vec![Ready::first(TaskId::new(0, 1))];
    let effects = desk.answer(&commit, written(ready), now);
    let doubts = effects.iter().filter_map(|effect| match effect {
        Effect::Prepare { tasks, .. } => Some(tasks[0].doubt),
        _ => None,
    });
    assert_eq!(doubts.collect::<Vec<_>>(), [Doubt::Deadly(1)]);
    // The last that a worker may have run on with.
    desk.start_as(1, 1, 0, now);
    desk.end(1, now);
    let commit = desk.commit(now);
    let ready = vec![Ready::first(TaskId::new(0, 2))];
    assert_eq!(prepared(&desk.answer(&commit, written(ready), now)), [(2, false)]);
}
