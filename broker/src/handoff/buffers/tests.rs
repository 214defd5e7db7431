use super::*;

const MIB: usize = 1 << 20;

fn shelf() -> &'static Shelf {
    Box::leak(Box::new(Shelf::new()))
}

/// A buffer filled with `byte`, as something received.
fn filled(shelf: &'static Shelf, length: usize, byte: u8) -> Bytes {
    let mut buffer = shelf.take(length).unwrap();
    assert!(buffer.is_empty() && buffer.capacity() >= length);
    buffer.resize(length, byte);
    shelf.freeze(buffer)
}

fn kept(shelf: &Shelf) -> (usize, usize) {
    let state = shelf.state();
    assert_eq!(state.bytes, state.buffers.values().map(Vec::capacity).sum::<usize>());
    (state.buffers.len(), state.bytes)
}

#[test]
fn the_memory_of_the_last_is_the_next_ones() {
    let shelf = shelf();
    let _keeper = Keeper::of(shelf, 1 << 30);
    let first = filled(shelf, MIB + 5, 1);
    let (place, part) = (first.as_ptr(), first.slice(7..9));
    drop(first);
    assert_eq!(kept(shelf), (0, 0), "a part of it is in use");
    drop(part);
    assert_eq!(kept(shelf), (1, MIB + 5));
    let second = filled(shelf, MIB, 2);
    assert_eq!((second.as_ptr(), kept(shelf)), (place, (0, 0)));
}

#[test]
fn nothing_of_a_longer_result_is_seen_in_a_shorter_one() {
    let shelf = shelf();
    let _keeper = Keeper::of(shelf, 1 << 30);
    drop(filled(shelf, MIB, 0xee));
    let shorter = filled(shelf, MIB - 10_000, 1);
    assert_eq!(shorter.len(), MIB - 10_000);
    assert!(shorter.iter().all(|byte| *byte == 1));
    drop(shorter);
    let buffer = shelf.take(MIB - 10_000).unwrap();
    assert_eq!((buffer.len(), buffer.capacity()), (0, MIB));
    assert_eq!(&*shelf.freeze(buffer), b"");
}

#[test]
fn no_result_takes_much_more_memory_than_it_is_long() {
    let shelf = shelf();
    let _keeper = Keeper::of(shelf, 1 << 30);
    drop((filled(shelf, 4 * MIB, 1), filled(shelf, 2 * MIB, 1)));
    assert_eq!(shelf.take(3 * MIB).unwrap().capacity(), 3 * MIB);
    assert_eq!(shelf.take(2 * MIB + 1).unwrap().capacity(), 2 * MIB + 1);
    assert_eq!(shelf.take(1).unwrap().capacity(), 1);
    assert_eq!(kept(shelf), (2, 6 * MIB));
    assert_eq!(shelf.take(2 * MIB - 1).unwrap().capacity(), 2 * MIB);
    assert!(shelf.take(usize::MAX).is_err());
}

#[test]
fn no_more_is_kept_than_allowed_and_nothing_small() {
    let shelf = shelf();
    let all = |count: usize| -> Vec<Bytes> { (0..count).map(|_| filled(shelf, MIB, 1)).collect() };
    assert!(all(2).into_iter().all(|bytes| bytes.try_into_mut().is_ok()), "it is the owner's");
    drop(all(2));
    assert_eq!(kept(shelf), (0, 0), "nobody keeps anything");
    let keeper = Keeper::of(shelf, 5 * MIB as u64 * BUFFERS_KEPT_PART);
    drop(all(9));
    assert_eq!(kept(shelf), (5, 5 * MIB));
    let other = Keeper::of(shelf, u64::MAX);
    assert_eq!(shelf.state().limit, 5 * MIB + BUFFERS_KEPT_MAX);
    drop(filled(shelf, KEPT_BYTES_MIN - 1, 1));
    drop(all(9));
    assert_eq!(kept(shelf), (9, 9 * MIB));
    drop(other);
    assert_eq!(kept(shelf), (0, 0));
    drop(all(9));
    assert_eq!(kept(shelf), (5, 5 * MIB));
    drop(keeper);
    assert_eq!((kept(shelf), shelf.state().limit), ((0, 0), 0));
}

#[test]
fn what_nobody_takes_goes_back_to_the_system() {
    let shelf = shelf();
    let _keeper = Keeper::of(shelf, 1 << 30);
    let (first, second) = (filled(shelf, MIB, 1), filled(shelf, MIB, 2));
    let place = second.as_ptr();
    drop(first);
    drop(second);
    shelf.sweep();
    assert_eq!(kept(shelf).0, 2, "they may have come just now");
    let again = filled(shelf, MIB, 3);
    assert_eq!(again.as_ptr(), place, "the last that came, so that the others grow old");
    drop(again);
    shelf.sweep();
    assert_eq!(kept(shelf).0, 1, "the other one was in use meanwhile");
    shelf.sweep();
    assert_eq!(kept(shelf).0, 0);
    drop(filled(shelf, MIB, 1));
    shelf.clear();
    assert_eq!(kept(shelf), (0, 0));
}

#[test]
fn threads_share_it() {
    let shelf = shelf();
    let _keeper = Keeper::of(shelf, 1 << 40);
    std::thread::scope(|scope| {
        for byte in 0..4 {
            scope.spawn(move || {
                for round in 0..200 {
                    let bytes = filled(shelf, KEPT_BYTES_MIN + round % 7, byte);
                    assert!(bytes.iter().all(|own| *own == byte));
                }
            });
        }
    });
    assert!((1..=28).contains(&kept(shelf).0));
}
