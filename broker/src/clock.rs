//! Time and randomness: the only place that asks the machine for either, so that tests and
//! simulation can own both.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::id::{Incarnation, RunId};

/// Milliseconds since 1970 by this machine's clock. Never compared with another machine's: leases
/// and due times are judged by the store's clock alone.
pub fn unix_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Random bytes from the operating system. Where it cannot give any (never seen on Linux once
/// booted), falls back to a hash of time and address, which is unique but can be guessed.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        let mut hasher = blake3::Hasher::new();
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        hasher.update(&elapsed.as_nanos().to_be_bytes());
        hasher.update(&(std::ptr::from_ref(&bytes) as usize).to_be_bytes());
        hasher.update(&std::process::id().to_be_bytes());
        hasher.finalize_xof().fill(&mut bytes);
    }
    bytes
}

/// A random number of 64 bits.
pub fn random_u64() -> u64 {
    u64::from_be_bytes(random_bytes())
}

/// A new run id.
pub fn new_run_id() -> RunId {
    RunId::new(unix_ms(), u128::from_be_bytes(random_bytes()))
}

/// A new incarnation.
pub fn new_incarnation() -> Incarnation {
    Incarnation::new(u128::from_be_bytes(random_bytes()))
}
