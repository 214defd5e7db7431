//! Tasks and graphs with known answers, for tests with processes of their own: workers and clients
//! are the program `cluster`, which links these.
//!
//! Two values of a run's header act on its tasks: [`HOLD`] makes each last longer, [`JOURNAL`] makes
//! each write down that it was started.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use bolthole::{Ctx, Delayed, task};
use bolthole_broker::handoff::is_shortage;
use bytes::Bytes;

/// Header: milliseconds that every task lasts at least.
pub const HOLD: &str = "hold";
/// Header: the file to which every task that is started adds a line.
pub const JOURNAL: &str = "journal";

/// Days of the ETL-shaped graph.
const DAYS: u64 = 24;
/// Pairs that it compares.
const PAIRS: u64 = 40;
/// Numbers of the map-reduce, and how many of them are added up at a time.
const NUMBERS: u64 = 200;
const PART: usize = 20;

/// What a task does besides computing.
pub(crate) fn begin(ctx: &Ctx) {
    if let Some(path) = ctx.header(JOURNAL) {
        let line = format!("{}\n", ctx.task());
        let mut journal = File::options().create(true).append(true).open(path);
        // A process that is short of files writes down later what it does.
        while matches!(&journal, Err(error) if is_shortage(error)) {
            ctx.pause(Duration::from_millis(20));
            journal = File::options().create(true).append(true).open(path);
        }
        // One write of a short line is not torn by those of other processes.
        let written = journal.and_then(|mut journal| journal.write_all(line.as_bytes()));
        assert!(written.is_ok(), "{path}: {written:?}");
    }
    hold(ctx);
}

/// Waits for as long as the run's header wants every task to last.
pub(crate) fn hold(ctx: &Ctx) {
    if let Some(hold) = ctx.header(HOLD).and_then(|hold| hold.parse().ok()) {
        ctx.pause(Duration::from_millis(hold));
    }
}

/// Spreads numbers: equal answers mean equal inputs in equal order.
fn mix(a: u64, b: u64) -> u64 {
    (a ^ b.rotate_left(31)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17)
}

/// A square.
#[task]
pub fn square(value: u64, ctx: &Ctx) -> u64 {
    begin(ctx);
    value * value
}

/// A sum.
#[task]
pub fn sum(values: &[u64], ctx: &Ctx) -> u64 {
    begin(ctx);
    values.iter().sum()
}

/// Two numbers mixed.
#[task]
pub fn pair(a: u64, b: u64, ctx: &Ctx) -> u64 {
    begin(ctx);
    mix(a, b)
}

/// Three numbers mixed.
#[task]
pub fn roll(a: u64, b: u64, c: u64, ctx: &Ctx) -> u64 {
    begin(ctx);
    mix(mix(a, b), c)
}

/// The greatest.
#[task]
pub fn best(values: &[u64], ctx: &Ctx) -> Option<u64> {
    begin(ctx);
    values.iter().copied().max()
}

/// The value, once there is a file at `path`.
#[task]
pub async fn gate(value: u64, path: String) -> u64 {
    while !std::path::Path::new(&path).exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    value
}

/// A short text, once there is a file at `path`.
#[task]
pub async fn opened(path: String) -> String {
    gate(0, path).await;
    "open".to_owned()
}

/// So many bytes that depend on the seed; a multiple of eight.
#[task]
pub fn make(bytes: usize, seed: u64, ctx: &Ctx) -> Bytes {
    begin(ctx);
    bytes_of(bytes, seed)
}

/// What [`make()`] makes.
pub fn bytes_of(bytes: usize, seed: u64) -> Bytes {
    let mut made = Vec::with_capacity(bytes);
    for place in 0..bytes as u64 / 8 {
        made.extend_from_slice(&mix(seed, place).to_le_bytes());
    }
    made.into()
}

/// Depends on every byte and its place.
#[task]
pub fn digest(parts: &[Bytes], ctx: &Ctx) -> u64 {
    begin(ctx);
    digest_of(parts)
}

/// What [`digest()`] computes.
pub fn digest_of(parts: &[Bytes]) -> u64 {
    let words = parts.iter().flat_map(|part| part.as_chunks().0);
    words.fold(1, |digest, word| mix(digest, u64::from_le_bytes(*word)))
}

/// No number: an error of the user's.
#[task]
pub fn refuse(why: &str) -> Result<u64, String> {
    Err(why.to_owned())
}

/// No number: a panic.
///
/// # Panics
/// Always.
#[task]
pub fn break_down() -> u64 {
    panic!("broken on purpose");
}

/// A Fibonacci number, from a tree of tasks that submit tasks.
#[task]
pub fn fib(n: u64) -> Delayed<u64> {
    if n < 2 { square::delayed(n) } else { plus::delayed(fib::delayed(n - 1), fib::delayed(n - 2)) }
}

/// A sum of two.
#[task]
pub fn plus(a: u64, b: u64) -> u64 {
    a + b
}

/// Squares of many numbers, added up in two steps.
pub fn map_reduce() -> Delayed<u64> {
    let squares: Vec<_> = (0..NUMBERS).map(square::delayed).collect();
    let parts: Vec<_> = squares.chunks(PART).map(sum::delayed).collect();
    sum::delayed(parts)
}

/// Its answer, from a formula.
pub fn map_reduce_answer() -> u64 {
    (NUMBERS - 1) * NUMBERS * (2 * NUMBERS - 1) / 6
}

/// The windows that the ETL-shaped graph compares.
fn pairs(windows: usize) -> impl Iterator<Item = (usize, usize)> {
    let index = move |seed| usize::try_from(mix(seed, 7) % windows as u64).unwrap_or(0);
    (0..PAIRS).map(move |place| (index(2 * place), index(2 * place + 1)))
}

/// A graph in the shape of an ETL: days against one reference, windows of three, pairs of windows,
/// the best of them.
pub fn etl() -> Delayed<Option<u64>> {
    let reference = square::delayed(12_345);
    let days: Vec<_> = (0..DAYS).map(square::delayed).collect();
    let processed: Vec<_> = days.iter().map(|day| pair::delayed(day, &reference)).collect();
    let rolled: Vec<_> = processed.windows(3).map(|w| roll::delayed(&w[0], &w[1], &w[2])).collect();
    let compared = pairs(rolled.len()).map(|(i, j)| pair::delayed(&rolled[i], &rolled[j]));
    best::delayed(compared.collect::<Vec<_>>())
}

/// Its answer, computed in order.
pub fn etl_answer() -> Option<u64> {
    let reference = 12_345 * 12_345;
    let processed: Vec<u64> = (0..DAYS).map(|day| mix(day * day, reference)).collect();
    let rolled: Vec<u64> = processed.windows(3).map(|w| mix(mix(w[0], w[1]), w[2])).collect();
    pairs(rolled.len()).map(|(i, j)| mix(rolled[i], rolled[j])).max()
}

/// Bytes of a large result of the mixed graph: it is handed over in pieces.
pub const LARGE: usize = 1 << 20;
/// Small and large results of the mixed graph.
const MIXED: (u64, u64) = (8, 3);
/// Tasks of it that one result releases: more than a worker has slots, so that it rings for some.
const FAN: u64 = 8;

/// Small results and large ones, each read by more than one task, so that everything happens that
/// can happen to a task; and one of the large results.
pub fn mixed() -> (Delayed<Option<u64>>, Delayed<Bytes>) {
    let (small, large) = MIXED;
    let numbers: Vec<_> = (0..small).map(square::delayed).collect();
    let made: Vec<_> = (0..large).map(|seed| make::delayed(LARGE, seed)).collect();
    let pairs = numbers.windows(2).map(|two| pair::delayed(&two[0], &two[1]));
    let fan = (0..FAN).map(|number| pair::delayed(&numbers[0], number));
    let digests = made.windows(2).map(digest::delayed);
    let first = made[0].clone();
    (best::delayed(pairs.chain(fan).chain(digests).collect::<Vec<_>>()), first)
}

/// Its answer, computed in order.
pub fn mixed_answer() -> Option<u64> {
    let (small, large) = MIXED;
    let numbers: Vec<u64> = (0..small).map(|number| number * number).collect();
    let made: Vec<Bytes> = (0..large).map(|seed| bytes_of(LARGE, seed)).collect();
    let pairs = numbers.windows(2).map(|two| mix(two[0], two[1]));
    let fan = (0..FAN).map(|number| mix(numbers[0], number));
    pairs.chain(fan).chain(made.windows(2).map(digest_of)).max()
}
