//! What any bytes may do to whoever reads them: they end in a value or in an error, never in a
//! panic, and what was read can be written and read again. Each target is a function of an input;
//! `tests/fuzz` calls it with millions of them, and `tests/tests/fuzz_replay.rs` with its corpus.

mod formats;
mod seeds;

pub use formats::{argument, chunk, control, parcel, records};
pub use seeds::seeds;

/// A function of an input, which panics when a rule is broken.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of the function, of its program and of its corpus.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "argument", run: argument },
    Target { name: "chunk", run: chunk },
    Target { name: "control", run: control },
    Target { name: "parcel", run: parcel },
    Target { name: "records", run: records },
];

/// Bytes that an input of so many bytes may make its reader allocate at one time. A place in a list
/// may be a hundred times as large as what stands for it in the input; a length that is written
/// there alone must not count.
pub const fn allowance(input: usize) -> usize {
    (256 << 10) + 256 * input
}
