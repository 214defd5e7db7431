//! The functions that the benchmarks call.

use std::hint::black_box;
use std::time::Duration;

use bolthole::{Ctx, task};
use bytes::Bytes;

/// The lowest bit.
#[task(name = "bench::noop")]
pub fn noop(number: u64) -> u64 {
    number & 1
}

/// The next number.
#[task(name = "bench::inc")]
pub fn inc(number: u64) -> u64 {
    number.wrapping_add(1)
}

/// The sum of two.
#[task(name = "bench::add")]
pub fn add(a: u64, b: u64) -> u64 {
    a.wrapping_add(b)
}

/// The sum of many.
#[task(name = "bench::total")]
pub fn total(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0, |sum, number| sum.wrapping_add(*number))
}

fn pass(seconds: f64, ctx: &Ctx) {
    if seconds > 0.0 {
        ctx.pause(Duration::from_secs_f64(seconds));
    }
}

/// The ETL graph: a file, after some seconds.
#[task(name = "bench::load")]
pub fn load(file: i64, seconds: f64, ctx: &Ctx) -> i64 {
    pass(seconds, ctx);
    file
}

/// The ETL graph: what the files are held against.
#[task(name = "bench::reference")]
pub fn reference(seconds: f64, ctx: &Ctx) -> i64 {
    pass(seconds, ctx);
    1
}

/// The ETL graph: a file held against the reference.
#[task(name = "bench::process")]
pub fn process(file: i64, reference: i64, seconds: f64, ctx: &Ctx) -> i64 {
    pass(seconds, ctx);
    file + reference
}

/// The ETL graph: a window of three.
#[task(name = "bench::roll")]
pub fn roll(a: i64, b: i64, c: i64, seconds: f64, ctx: &Ctx) -> i64 {
    pass(seconds, ctx);
    a + b + c
}

/// The ETL graph: two windows compared.
#[task(name = "bench::compare")]
pub fn compare(a: i64, b: i64, seconds: f64, ctx: &Ctx) -> i64 {
    pass(seconds, ctx);
    a - b
}

/// The ETL graph: all comparisons.
#[task(name = "bench::reduce")]
pub fn reduce(differences: &[i64], seconds: f64, ctx: &Ctx) -> i64 {
    pass(seconds, ctx);
    differences.iter().sum()
}

/// So many bytes.
#[task(name = "bench::produce")]
pub fn produce(value: u8, bytes: usize) -> Bytes {
    Bytes::from(vec![value; bytes])
}

/// The part of that number.
#[task(name = "bench::split")]
pub fn split(whole: &Bytes, number: usize, bytes: usize) -> Bytes {
    let start = (number * bytes).min(whole.len());
    whole.slice(start..(start + bytes).min(whole.len()))
}

/// How long all parts are together, once they lie behind one another.
#[task(name = "bench::concat")]
pub fn concat(parts: &[Bytes]) -> u64 {
    black_box(parts.concat()).len() as u64
}

/// The sums of the bytes of two, place by place.
#[task(name = "bench::mix")]
pub fn mix(one: &Bytes, other: &Bytes) -> Bytes {
    one.iter().zip(other).map(|(one, other)| one.wrapping_add(*other)).collect::<Vec<_>>().into()
}

/// How long it is.
#[task(name = "bench::length")]
pub fn length(bytes: &Bytes) -> u64 {
    bytes.len() as u64
}

/// A task of a recorded workflow: takes its time, and returns `bytes` bytes, 8 at least, each of
/// which is one more than the sum of the inputs' first ones, modulo 251.
#[task(name = "bench::step")]
pub fn step(seconds: f64, bytes: usize, inputs: &[Bytes], ctx: &Ctx) -> Bytes {
    pass(seconds, ctx);
    let sum = inputs.iter().filter_map(|input| input.first()).map(|byte| u32::from(*byte)).sum();
    Bytes::from(vec![next(sum); bytes.max(8)])
}

/// The byte that follows from the sum of the inputs' first ones.
pub(super) fn next(sum: u32) -> u8 {
    (sum.wrapping_add(1) % 251).to_le_bytes()[0]
}

/// The sum of the first bytes of what no task of a workflow takes.
#[task(name = "bench::ends")]
pub fn ends(inputs: &[Bytes]) -> u64 {
    inputs.iter().filter_map(|input| input.first()).map(|byte| u64::from(*byte)).sum()
}

/// Multiplies and adds so many times, and counts itself and its inputs.
#[task(name = "bench::spin")]
pub fn spin(rounds: u64, inputs: &[u64]) -> u64 {
    work(rounds);
    inputs.iter().fold(1, |sum, input| sum.wrapping_add(*input))
}

/// Work that takes the same number of instructions whatever else runs: so many rounds of a
/// multiplication and an addition, each of which needs the one before.
pub fn work(rounds: u64) {
    let mut value = 1.0_f64;
    for _ in 0..rounds {
        value = black_box(value).mul_add(0.999_999, 0.000_001);
    }
    black_box(value);
}
