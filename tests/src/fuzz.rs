//! What any bytes may do to whoever reads them: they end in a value or in an error, never in a
//! panic, and what was read can be written and read again. Each target is a function of an input;
//! `tests/fuzz` calls it with millions of them, and `tests/tests/fuzz_replay.rs` with its corpus.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a rule that is broken is told by a panic, as fuzzers want it"
)]

mod formats;
mod outside;
mod port;
mod seeds;

pub use formats::{argument, chunk, control, parcel, records};
pub use outside::{amqp, replies, spill, urls};
pub use port::{frames, handshake};
pub use seeds::seeds;

/// A function of an input, which panics when a rule is broken.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of the function, of its program and of its corpus.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]),
    /// Bytes that it may allocate at one time for an input of no bytes.
    pub bytes: usize,
}

impl Target {
    const fn new(name: &'static str, run: fn(&[u8])) -> Self {
        Self { name, run, bytes: 256 << 10 }
    }

    /// With another number of bytes.
    const fn of(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// Bytes that an input of this length may make the function allocate at one time. A place in a
    /// list may be a hundred times as large as what stands for it in the input; a length that is
    /// only written there must not count.
    pub const fn allowance(&self, length: usize) -> usize {
        self.bytes + 256 * length
    }
}

/// For lists read through serde, which believes their written lengths up to a MiB for each of those
/// within each other; ours are three deep.
const LISTS: usize = 4 << 20;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target::new("amqp", amqp),
    Target::new("argument", argument),
    Target::new("chunk", chunk).of(LISTS),
    Target::new("control", control),
    // A piece of a result is read as a whole, and compared with itself.
    Target::new("frames", frames).of(4 << 20),
    Target::new("handshake", handshake),
    Target::new("parcel", parcel).of(LISTS),
    Target::new("records", records).of(LISTS),
    // Ready tasks are told by ranges, of up to two segments; the list grows by doubling.
    Target::new("replies", replies).of(16 << 20),
    Target::new("spill", spill),
    Target::new("urls", urls),
];
