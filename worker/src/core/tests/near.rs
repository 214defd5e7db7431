//! What uses a large result of this worker, while its slots are taken.

use bolthole_broker::id::WorkerIndex;

use super::*;
use crate::flight::Kept;

/// The only slot is taken by a task of a millisecond, and another one has ended with a result of so
/// many bytes: what becomes of the task that uses it.
async fn released(bytes: u64, now: Instant) -> (Desk, Vec<Effect>) {
    let mut desk = Desk::new(2).await;
    // One that may fail does not run on before the commit.
    Arc::get_mut(&mut desk.chunk).unwrap().classes[0].options.retries = 1;
    desk.deliver(&[0], now);
    desk.start(0, now);
    desk.deliver(&[3], now);
    desk.start(3, now);
    let locator = Locator::held(WorkerIndex::new(1), bytes);
    desk.end_as(0, Ended::Done(Kept { locator, record: Bytes::new() }), now);
    desk.core.task_seconds = 0.001;
    let commit = desk.commit(now);
    let ready = vec![Ready::first(TaskId::new(0, 1))];
    // There is no room for anything that does not stay for what it uses.
    desk.core.me.slots = 0;
    let reply = Committed::Written { ready, freed: vec![], run: RunState::Open };
    let effects = desk.answer(&commit, reply, now);
    (desk, effects)
}

#[tokio::test(start_paused = true)]
async fn it_stays_when_the_slot_is_free_sooner_than_the_result_would_be_elsewhere() {
    let now = Instant::now();
    let (mut desk, effects) = released(4 << 20, now).await;
    assert_eq!(prepared(&effects), [(1, false)]);
    assert!(publishes(effects).is_empty());
    desk.start(1, now);
    let slot = Some((3, now));
    assert!(!desk.tick(slot, now).iter().any(|effect| matches!(effect, Effect::TakeBack(_))));
    // Ten milliseconds were thought to do; others may have it now.
    let late = now + Duration::from_millis(60);
    let effects = desk.tick(slot, late);
    assert!(effects.iter().any(|e| matches!(e, Effect::TakeBack(keys) if *keys == [key(1)])));
    let effects = desk.core.on_taken_back(&[key(1)], late);
    let [published] = &publishes(effects)[..] else { panic!("it is for everyone") };
    assert_eq!(published.ready, [Ready::first(TaskId::new(0, 1))]);
    assert!(desk.tick(slot, late).iter().all(|effect| !matches!(effect, Effect::TakeBack(_))));
}

#[tokio::test(start_paused = true)]
async fn it_goes_when_the_result_is_small() {
    for bytes in [100 << 10, 300 << 10] {
        let (_, effects) = released(bytes, Instant::now()).await;
        assert_eq!(prepared(&effects), []);
        assert_eq!(publishes(effects).len(), 1, "{bytes} bytes");
    }
}
