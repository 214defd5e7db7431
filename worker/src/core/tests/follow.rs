//! Slots run on by themselves, and the core is told.

use super::*;
use crate::flight::{Begun, Kept};

impl Desk {
    /// Ends a task on a slot that has gone on with the next one; its token.
    fn run_on(&mut self, index: u16, now: Instant) -> (CancellationToken, Vec<Effect>) {
        let cancel = CancellationToken::new();
        let next = Begun {
            key: key(index + 1),
            info: TaskInfo::find(&self.chunk, index + 1).unwrap(),
            nonce: u64::from(index) + 2,
            threaded: true,
            cancel: cancel.clone(),
        };
        let locator = Locator::embed(&[7]).unwrap();
        let finish = Finish {
            key: key(index),
            nonce: u64::from(index) + 1,
            ended: Ended::Done(Kept { locator, record: Bytes::new() }),
            spawn: None,
            took: Duration::from_millis(1),
            next: Some(next),
        };
        let chunk = Arc::clone(&self.chunk);
        (cancel, self.core.on_finished(vec![finish], &chunk, 0, now))
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_on_a_slot_is_one_commit() {
    let (mut desk, now) = (Desk::new(1).await, Instant::now());
    let (tag, _) = desk.deliver(&[0], now);
    desk.start(0, now);
    for index in 0..3 {
        let (cancel, effects) = desk.run_on(index, now);
        assert!(prepared(&effects).is_empty(), "the slot has it: {effects:?}");
        assert!(!cancel.is_cancelled());
    }
    desk.end(3, now);
    let commit = desk.commit(now);
    let finished: Vec<u16> = commit.finished.iter().map(|finished| finished.index).collect();
    assert_eq!(finished, [0, 1, 2, 3]);
    let effects = desk.answer(&commit, written(vec![]), now);
    assert_eq!(acks(&effects), [tag], "all of it was on the account of the first");
    assert!(desk.core.is_idle());
}

#[tokio::test(start_paused = true)]
async fn what_a_slot_has_begun_on_a_loser_is_stopped_and_dropped() {
    let (mut desk, now) = (Desk::new(1).await, Instant::now());
    desk.deliver(&[0], now);
    desk.start(0, now);
    let (cancel, _) = desk.run_on(0, now);
    let commit = desk.commit(now);
    let locator = Locator::embed(&[8]).unwrap();
    let state = StateByte::new(TaskState::Done, 0);
    desk.answer(&commit, Committed::Superseded(vec![(state, locator)]), now);
    assert!(cancel.is_cancelled());
    // It has gone on all the same, and so has its slot.
    let (after, effects) = desk.run_on(1, now);
    let discarded = |effect: &Effect| matches!(effect, Effect::Discard(all) if all[0].0 == key(1));
    assert!(effects.iter().any(discarded), "{effects:?}");
    assert!(after.is_cancelled(), "nothing of the chain counts");
    let effects = desk.end(2, now);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Discard(_))), "{effects:?}");
    assert!(desk.core.is_idle());
}

#[tokio::test(start_paused = true)]
async fn what_has_come_by_a_message_is_left_to_that() {
    let (mut desk, now) = (Desk::new(2).await, Instant::now());
    desk.deliver(&[0], now);
    desk.start(0, now);
    desk.deliver(&[1], now);
    let (cancel, _) = desk.run_on(0, now);
    assert!(cancel.is_cancelled(), "somebody else has committed what it follows");
    let commit = desk.commit(now);
    desk.answer(&commit, written(vec![]), now);
    assert!(!desk.core.is_idle(), "the one that has come by a message is being prepared");
}
