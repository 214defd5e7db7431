//! Time and randomness: the only place that asks the machine for either, so that tests and
//! simulation can own both: inside [`seeded`] both follow from a seed and from tokio's clock.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::id::{Incarnation, RunId};

/// The date on which every simulation begins, in milliseconds since 1970.
const SEEDED_START_MS: u64 = 1_700_000_000_000;

/// Random bytes that a thread asks for at a time.
const DRAWN_BYTES: usize = 512;

thread_local! {
    static SEEDED: RefCell<Option<Seed>> = const { RefCell::new(None) };
    /// Bytes that [`random_u64`] has asked for, and the place of the first one not yet given.
    static DRAWN: RefCell<([u8; DRAWN_BYTES], usize)> =
        const { RefCell::new(([0; DRAWN_BYTES], DRAWN_BYTES)) };
}

/// Where this thread's time and randomness come from, when not from the machine.
struct Seed {
    random: Random,
    began: Instant,
}

/// Makes this thread's time and randomness follow from `seed` and from tokio's clock, until the
/// reply is dropped. To be called inside the runtime whose clock it is.
#[must_use = "dropping it ends the seeded time"]
pub fn seeded(seed: u64) -> Seeded {
    let now = Seed { random: Random::new(seed), began: Instant::now() };
    Seeded { before: SEEDED.replace(Some(now)), _this_thread: PhantomData }
}

/// Ends what [`seeded`] began, on the same thread, when it is dropped.
pub struct Seeded {
    before: Option<Seed>,
    _this_thread: PhantomData<*const ()>,
}

impl Drop for Seeded {
    fn drop(&mut self) {
        SEEDED.set(self.before.take());
    }
}

/// Random numbers that a seed determines: good for tests, useless for secrets.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; zero when that is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.draw() % (bound as u64).max(1)).unwrap_or(0)
    }

    /// True in one of `n` cases.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// True with this probability, from 0 to 1.
    pub fn happens(&mut self, probability: f64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "32 bits fit")]
        let drawn = (self.draw() >> 32) as f64 / 4_294_967_296.0;
        drawn < probability
    }
}

/// The finalizer of the generator `SplitMix64`.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Milliseconds since 1970 by this machine's clock. Never compared with another machine's: leases
/// and due times are judged by the store's clock alone.
pub fn unix_ms() -> u64 {
    let seeded = SEEDED.with_borrow(|seed| seed.as_ref().map(|seed| seed.began.elapsed()));
    if let Some(elapsed) = seeded {
        return SEEDED_START_MS + u64::try_from(elapsed.as_millis()).unwrap_or(0);
    }
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Random bytes from the operating system. Where it cannot give any (never seen on Linux once
/// booted), falls back to a hash of time and address, which is unique but can be guessed.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if fill_seeded(&mut bytes) {
        return bytes;
    }
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

/// Fills `bytes` from the seed of this thread, if it has one.
fn fill_seeded(bytes: &mut [u8]) -> bool {
    SEEDED.with_borrow_mut(|seed| {
        let Some(seed) = seed else { return false };
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&seed.random.draw().to_be_bytes()[..part.len()]);
        }
        true
    })
}

/// A random number of 64 bits. Every attempt of a task draws one, so the operating system is asked
/// for many at a time.
pub fn random_u64() -> u64 {
    let mut number = [0; 8];
    if !fill_seeded(&mut number) {
        number = DRAWN.with_borrow_mut(|(drawn, next)| {
            if *next == drawn.len() {
                (*drawn, *next) = (random_bytes(), 0);
            }
            *next += number.len();
            drawn[*next - number.len()..*next].try_into().unwrap_or_default()
        });
    }
    u64::from_be_bytes(number)
}

/// A new run id.
pub fn new_run_id() -> RunId {
    RunId::new(unix_ms(), u128::from_be_bytes(random_bytes()))
}

/// A new incarnation.
pub fn new_incarnation() -> Incarnation {
    Incarnation::new(u128::from_be_bytes(random_bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_do_not_repeat_across_draws_from_the_system() {
        let numbers: HashSet<u64> = (0..4 * DRAWN_BYTES).map(|_| random_u64()).collect();
        assert_eq!(numbers.len(), 4 * DRAWN_BYTES);
    }

    fn draws() -> (u64, [u8; 3], RunId) {
        (random_u64(), random_bytes(), new_run_id())
    }

    #[tokio::test(start_paused = true)]
    async fn a_seed_determines_time_and_randomness_while_it_lasts() {
        let first = {
            let _seeded = seeded(7);
            let before = unix_ms();
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(unix_ms(), before + 3_000);
            let inner = {
                let _other = seeded(8);
                draws()
            };
            let outer = draws();
            assert_ne!(inner, outer);
            outer
        };
        assert_ne!(draws(), first, "the machine's again");
        let _seeded = seeded(7);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(draws(), first);
    }
}
