//! Compiles without a warning under lints that programs are strict with.

#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unreachable_pub, unused_qualifications, unused_results)]
#![deny(missing_debug_implementations, single_use_lifetimes)]

use std::path::Path;

use bolthole::{Ctx, State, task};

/// Documented.
#[task(pure, retries = 2, backoff = "1s..1m", resources(gpu = 1))]
pub fn open(path: &Path) -> Result<u64, std::io::Error> {
    Ok(std::fs::metadata(path)?.len())
}

/// Names that the generated code might use itself.
#[task]
pub async fn names(call: u8, target: u16, items: &[u32], returned: &str, attempt: String) -> u64 {
    let lengths = items.len() + returned.len() + attempt.len();
    u64::from(call) + u64::from(target) + lengths as u64
}

#[task]
fn private(_: u8, (_a, _b): (u8, u8), unit: &State<u8>, ctx: Ctx) -> bool {
    ctx.attempt() > u32::from(**unit)
}

#[task]
#[cfg(any())]
fn left_out(value: DoesNotExist) {}

/// Modules keep their own.
pub mod inner {
    use bolthole::task;

    /// Only here and above.
    #[derive(Debug)]
    pub(super) struct Hidden;

    #[task]
    pub(super) fn visible_above(value: Option<u8>) -> Option<u8> {
        value
    }
}

/// Calls of all of them.
pub fn calls() {
    let _ = open::delayed("/");
    let _ = names::delayed(1, 2, [3], "4", "5");
    let _ = private::delayed(1, (2, 3));
    let _ = inner::visible_above::delayed(Some(1));
    let _ = (private as fn(u8, (u8, u8), &State<u8>, Ctx) -> bool, inner::Hidden);
}
