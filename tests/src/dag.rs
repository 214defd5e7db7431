//! Random graphs of every shape and every kind of task, from a seed. A result is a text that
//! follows from its task and its inputs alone, so that any two ways to run a graph must agree.

use std::fmt::Write;

use bolthole::{Ctx, Delayed, IntoArg, task};
pub use bolthole_broker::clock::Random;
use serde::{Deserialize, Serialize};

use crate::ledger;
use crate::workload::hold;

/// Encoded bytes of results: on both sides of every threshold, and one that workers hold.
const SIZES: [usize; 8] = [1, 7, 8, 40, 4_095, 4_096, 4_097, 100_000];
/// A text that travels as a blob.
const BLOB_BYTES: usize = 70_000;

/// How a task behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Returns its text.
    Plain,
    /// Waits for some milliseconds first.
    Slow(u64),
    /// May be shared with equal calls.
    Pure,
    /// Acts on the outside, as far as the system knows.
    Effect,
    /// Has an argument that is stored apart.
    Blob,
    /// Returns an error.
    Fails,
    /// Panics.
    Panics,
    /// Fails so many times first.
    Retried(u32),
    /// Returns a task, so many times.
    Forwards(u32),
}

/// A task of a graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Earlier tasks, each by its place.
    pub inputs: Vec<usize>,
    /// Encoded bytes of the result.
    pub bytes: usize,
    /// How it behaves.
    pub kind: Kind,
}

/// A graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dag {
    /// Its tasks, each behind its inputs.
    pub nodes: Vec<Node>,
    /// Tasks whose results are asked for, among them all that nobody uses.
    pub outputs: Vec<usize>,
}

/// The finalizer of the generator `SplitMix64`.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl Dag {
    /// The graph of a seed: 1 to 400 tasks.
    pub fn random(random: &mut Random) -> Self {
        let count = 1 + random.below(400);
        let inputs = match random.below(5) {
            0 => chain(count),
            1 => star(count),
            2 => lattice(count),
            3 => layers(count, random),
            _ => any(count, random),
        };
        // Failures spread downstream: most graphs have none.
        let failing = random.one_in(3);
        let nodes: Vec<Node> = inputs
            .into_iter()
            .map(|inputs| Node {
                inputs,
                bytes: SIZES[if random.one_in(6) { 4 + random.below(4) } else { random.below(4) }],
                kind: kind(failing, random),
            })
            .collect();
        let mut used = vec![false; nodes.len()];
        nodes.iter().flat_map(|node| &node.inputs).for_each(|input| used[*input] = true);
        let asked = |place: &usize| !used[*place] || random.one_in(10);
        let outputs = (0..nodes.len()).filter(asked).collect();
        Self { nodes, outputs }
    }

    /// The graph as calls; the outputs.
    pub fn calls(&self) -> Vec<Delayed<String>> {
        let mut calls: Vec<Delayed<String>> = Vec::with_capacity(self.nodes.len());
        for (id, node) in (0..).zip(&self.nodes) {
            let inputs: Vec<&Delayed<String>> = node.inputs.iter().map(|n| &calls[*n]).collect();
            calls.push(node.call(id, inputs));
        }
        self.outputs.iter().map(|place| calls[*place].clone()).collect()
    }
}

impl Node {
    /// The task of this id as a call.
    pub fn call(&self, id: u64, inputs: impl IntoArg<Vec<String>>) -> Delayed<String> {
        let bytes = self.bytes;
        match self.kind {
            Kind::Plain => plain::delayed(id, bytes, inputs),
            Kind::Slow(ms) => slow::delayed(id, bytes, ms, inputs),
            Kind::Pure => shared::delayed(bytes, inputs),
            Kind::Effect => acts::delayed(id, bytes, inputs),
            Kind::Blob => blob::delayed(text(id, BLOB_BYTES), bytes, inputs),
            Kind::Fails => fails::delayed(id, inputs),
            Kind::Panics => panics::delayed(id, inputs),
            Kind::Retried(failures) => retried::delayed(id, bytes, failures, inputs),
            Kind::Forwards(times) => forwards::delayed(id, bytes, times, inputs),
        }
    }
}

fn kind(failing: bool, random: &mut Random) -> Kind {
    match random.below(60) {
        0..4 => Kind::Slow(1 + random.draw() % 8),
        4..12 => Kind::Pure,
        12..15 => Kind::Effect,
        15..17 => Kind::Blob,
        17 if failing => Kind::Fails,
        18 if failing => Kind::Panics,
        19 => Kind::Retried(1 + u32::try_from(random.below(2)).unwrap_or(0)),
        20..22 => Kind::Forwards(1 + u32::try_from(random.below(3)).unwrap_or(0)),
        _ => Kind::Plain,
    }
}

fn chain(count: usize) -> Vec<Vec<usize>> {
    (0..count).map(|n| n.checked_sub(1).into_iter().collect()).collect()
}

/// One source, many that use it, one that uses them all.
fn star(count: usize) -> Vec<Vec<usize>> {
    let middle = |n| if n == 0 { vec![] } else { vec![0] };
    let mut inputs: Vec<Vec<usize>> = (0..count).map(middle).collect();
    if count > 2 {
        inputs[count - 1] = (1..count - 1).collect();
    }
    inputs
}

/// Rows of eight; each task uses two neighbours of the row above.
fn lattice(count: usize) -> Vec<Vec<usize>> {
    let row = |n: usize| {
        let Some(above) = n.checked_sub(8) else { return vec![] };
        let next = if above % 8 == 7 { above - 7 } else { above + 1 };
        vec![above.min(next), above.max(next)]
    };
    (0..count).map(row).collect()
}

/// Each task uses some of the layer above.
fn layers(count: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let width = 1 + random.below(40);
    let layered = |n: usize| {
        let Some(above) = (n / width).checked_sub(1) else { return vec![] };
        let pick = |random: &mut Random| above * width + random.below(width);
        some((0..=random.below(4)).map(|_| pick(random)).collect())
    };
    (0..count).map(layered).collect()
}

/// Each task uses any earlier ones.
fn any(count: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let earlier = |n: usize| {
        let uses = if n == 0 { 0 } else { random.below(4) };
        some((0..uses).map(|_| random.below(n)).collect())
    };
    (0..count).map(earlier).collect()
}

fn some(mut inputs: Vec<usize>) -> Vec<usize> {
    inputs.sort_unstable();
    inputs.dedup();
    inputs
}

/// A text of `bytes` encoded bytes that begins with what follows from `seed`.
fn text(seed: u64, bytes: usize) -> String {
    let head = match bytes {
        0..=32 => 1,
        33..=257 => 2,
        258..=65_538 => 3,
        _ => 5,
    };
    let mut out = String::with_capacity(bytes + 16);
    let mut random = Random::new(seed);
    while out.len() < bytes - head {
        let _ = write!(out, "{:016x}", random.draw());
    }
    out.truncate(bytes - head);
    out
}

/// A number that follows from a task and its inputs.
fn seed(id: u64, inputs: &[String]) -> u64 {
    let mut seed = mix(id);
    for input in inputs {
        for part in input.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            seed = mix(seed ^ u64::from_be_bytes(word)).wrapping_add(1);
        }
        seed = mix(seed ^ input.len() as u64);
    }
    seed
}

/// A number that follows from a text: equal numbers mean equal texts.
pub fn digest(text: &str) -> u64 {
    seed(0, &[text.to_owned()])
}

/// What [`plain()`] and [`acts()`] have as their result.
pub fn result(id: u64, bytes: usize, inputs: &[String]) -> String {
    text(seed(id, inputs), bytes)
}

/// Writes down that a body has begun, and lasts as long as the run's header wants.
fn begin(ctx: &Ctx, body: &str, id: u64, inputs: &[String]) -> ledger::Entry {
    let entry = ledger::begin(ctx, body, id, seed(0, inputs));
    hold(ctx);
    entry
}

/// A text of so many bytes that follows from the id and the inputs.
#[task]
pub fn plain(ctx: &Ctx, id: u64, bytes: usize, inputs: &[String]) -> String {
    let entry = begin(ctx, "plain", id, inputs);
    entry.done(result(id, bytes, inputs))
}

#[task]
async fn slow(ctx: &Ctx, id: u64, bytes: usize, ms: u64, inputs: Vec<String>) -> String {
    let entry = ledger::begin(ctx, "slow", id, seed(0, &inputs));
    tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
    entry.done(result(id, bytes, &inputs))
}

#[task(pure)]
fn shared(ctx: &Ctx, bytes: usize, inputs: &[String]) -> String {
    let entry = begin(ctx, "shared", bytes as u64, inputs);
    entry.done(result(0, bytes, inputs))
}

/// The same, by an effect.
#[task(effect)]
pub fn acts(ctx: &Ctx, id: u64, bytes: usize, inputs: &[String]) -> String {
    let entry = begin(ctx, "acts", id, inputs);
    entry.done(result(id, bytes, inputs))
}

#[task]
fn blob(ctx: &Ctx, large: &str, bytes: usize, inputs: &[String]) -> String {
    let entry = begin(ctx, "blob", digest(large), inputs);
    entry.done(result(large.len() as u64, bytes, inputs))
}

#[task]
fn fails(ctx: &Ctx, id: u64, inputs: &[String]) -> Result<String, String> {
    let entry = begin(ctx, "fails", id, inputs);
    Err(entry.failed(format!("{id} of {} inputs fails", inputs.len())))
}

#[task]
fn panics(ctx: &Ctx, id: u64, inputs: &[String]) -> String {
    let entry = begin(ctx, "panics", id, inputs);
    assert!(inputs.len() > 100, "{id} panics");
    entry.done(String::new())
}

#[task(retries = 3, backoff = "1ms..2ms")]
fn retried(
    ctx: &Ctx,
    id: u64,
    bytes: usize,
    failures: u32,
    inputs: &[String],
) -> Result<String, String> {
    let entry = begin(ctx, "retried", id, inputs);
    if ctx.attempt() <= failures {
        return Err(entry.failed(format!("attempt {}", ctx.attempt())));
    }
    Ok(entry.done(result(id, bytes, inputs)))
}

#[task]
fn forwards(ctx: &Ctx, id: u64, bytes: usize, times: u32, inputs: &[String]) -> Delayed<String> {
    let entry = begin(ctx, "forwards", id + (u64::from(times) << 32), inputs);
    let inner = plain::delayed(id ^ 1, 100, inputs);
    let last = if times > 1 {
        let both = [inner, plain::delayed(id ^ 2, 5_000, inputs)];
        forwards::delayed(id, bytes, times - 1, both.to_vec())
    } else {
        plain::delayed(id, bytes, vec![inner])
    };
    entry.forwarded(last)
}
