//! Random pairs of windows, the same for the same seed on every machine.

/// A window is this many days, and windows this far apart have no day in common.
pub(crate) const WINDOW_DAYS: usize = 3;

/// Draws pairs of windows without a day in common. No pair can be drawn of three windows or fewer:
/// then there is none.
pub(crate) fn draw(window_count: usize, pair_count: usize, seed: u64) -> Vec<(usize, usize)> {
    if window_count <= WINDOW_DAYS {
        return Vec::new();
    }
    let mut random = SplitMix64 { state: seed };
    std::iter::repeat_with(|| (random.below(window_count), random.below(window_count)))
        .filter(|(i, j)| i.abs_diff(*j) >= WINDOW_DAYS)
        .take(pair_count)
        .collect()
}

/// Steele, Lea and Flood's generator (2014): one addition and one mix a number.
struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below a `usize`")]
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_the_published_numbers() {
        let mut random = SplitMix64 { state: 1_234_567 };
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(expected, std::array::from_fn(|_| random.next()));
    }

    #[test]
    fn pairs_are_apart_in_range_and_the_same_again() {
        let pairs = draw(98, 1000, 42);
        assert_eq!(pairs.len(), 1000);
        assert!(pairs.iter().all(|(i, j)| i.abs_diff(*j) >= 3 && *i < 98 && *j < 98));
        assert_eq!(pairs[..200], draw(98, 200, 42));
        assert_ne!(pairs, draw(98, 1000, 43));
    }

    #[test]
    fn windows_that_all_share_a_day_give_no_pair() {
        assert!(draw(0, 5, 42).is_empty());
        assert!(draw(3, 5, 42).is_empty());
        assert!(draw(4, 5, 42).iter().all(|pair| matches!(pair, (0, 3) | (3, 0))));
    }
}
