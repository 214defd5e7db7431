//! How long to wait before the next attempt.

use std::time::Duration;

use crate::clock::random_u64;

const FIRST_MS: u64 = 100;
const LONGEST_MS: u64 = 10_000;

/// A random time below a bound that doubles with each failed attempt, from 0.1 s to 10 s. Random,
/// so that a fleet which lost its server together does not come back together.
pub(super) fn backoff(failed_attempts: u32) -> Duration {
    let bound = FIRST_MS.saturating_mul(1 << failed_attempts.min(16)).min(LONGEST_MS);
    Duration::from_millis(FIRST_MS / 2 + random_u64() % bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_bounded() {
        for attempt in [0, 1, 5, 16, u32::MAX] {
            let bound = FIRST_MS / 2 + (FIRST_MS << attempt.min(7)).min(LONGEST_MS);
            let waits = (0..200).map(|_| backoff(attempt));
            assert!(waits.into_iter().all(|wait| wait <= Duration::from_millis(bound)));
        }
    }
}
