//! The store begins another life.

use super::*;

/// Commits that were under way when the store began another life: what is sound is made again, what
/// was computed from what is undone is not, and neither before all was compared.
#[tokio::test(start_paused = true)]
async fn commits_of_another_life_wait_until_all_is_compared() {
    let (mut desk, now) = (Desk::new(2).await, Instant::now());
    desk.deliver(&[0], now);
    desk.start(0, now);
    desk.end(0, now);
    let refused = desk.commit(now);
    let effects = desk.core.on_outlived(refused.outbox, true, now);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Discard(_))), "{effects:?}");
    assert!(desk.core.due_commits(now, Standing::IDLE).is_empty(), "nobody has seen that life");
    desk.core.on_new_life();
    assert!(desk.core.due_commits(now, Standing::IDLE).is_empty(), "nothing was compared");
    desk.core.on_compared(Compared::default(), now);
    let again = desk.commit(now);
    assert_eq!((&again.finished, again.outbox == refused.outbox), (&refused.finished, false));
    desk.answer(&again, written(vec![]), now);

    desk.deliver(&[2], now);
    desk.start(2, now);
    desk.end(2, now);
    let refused = desk.commit(now);
    desk.core.on_new_life();
    let stale = BTreeSet::from([key(1)]);
    desk.core.on_compared(Compared { stale, offers: vec![] }, now);
    let effects = desk.core.on_outlived(refused.outbox, false, now);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Discard(_))), "{effects:?}");
    assert!(desk.core.due_commits(now, Standing::IDLE).is_empty());
}

/// What was prepared in a life of the store that is over is prepared anew; what was computed from a
/// result that is not committed goes with it.
#[tokio::test(start_paused = true)]
async fn what_comes_from_an_earlier_life_is_prepared_again_or_dropped() {
    let (mut desk, now) = (Desk::new(3).await, Instant::now());
    desk.deliver(&[3], now);
    desk.core.on_new_life();
    desk.core.on_compared(Compared::default(), now);
    assert_eq!(prepared(&desk.start(3, now)), [(3, true)], "its inputs may be undone");
    let ended = desk.core.on_prepared(vec![(key(3), Prepared::Drop { rearmed: vec![] })], 0, now);
    assert_eq!(acks(&ended).len(), 1, "once is enough");

    // 2 was computed from 1, and 1 from 0; neither is committed.
    for index in [2, 1] {
        desk.deliver(&[index], now);
        desk.start(index, now);
        desk.end(index, now);
    }
    desk.core.on_new_life();
    let stale = BTreeSet::from([key(0)]);
    let effects = desk.core.on_compared(Compared { stale, offers: vec![] }, now);
    let discarded = effects.iter().filter_map(|effect| match effect {
        Effect::Discard(results) => Some(results[0].0),
        _ => None,
    });
    let all = BTreeSet::from([key(1), key(2), key(3)]);
    assert_eq!(discarded.collect::<BTreeSet<_>>(), all, "3 was to run on behind 2");
    assert!(desk.core.due_commits(now, Standing::IDLE).is_empty());
}

/// A result that the store has forgotten is not offered when its task is here once more: then what was
/// computed from it goes, too, for the task may have another result this time.
#[tokio::test(start_paused = true)]
async fn what_was_computed_from_a_result_that_is_computed_anew_is_dropped() {
    let (mut desk, now) = (Desk::new(3).await, Instant::now());
    desk.deliver(&[0], now);
    desk.start(0, now);
    desk.end(0, now);
    let commit = desk.commit(now);
    desk.answer(&commit, written(vec![]), now);
    desk.deliver(&[1], now);
    desk.start(1, now);
    desk.end(1, now);
    let (_, _, offers) = desk.core.on_new_life();
    assert_eq!(offers.len(), 1, "the store may have forgotten it");
    desk.deliver(&[0], now);
    let effects = desk.core.on_compared(Compared { stale: BTreeSet::new(), offers }, now);
    let discarded = effects.iter().filter_map(|effect| match effect {
        Effect::Discard(results) => Some(results[0].0),
        _ => None,
    });
    assert!(discarded.eq([key(0), key(1), key(2)]), "2 was to run on: {effects:?}");
    assert!(desk.core.due_commits(now, Standing::IDLE).is_empty());
}
