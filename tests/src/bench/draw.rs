//! The random numbers of Python's `random.Random(seed)`, so that a graph drawn here is the one that
//! is drawn for systems that are programmed in Python.

use rand_mt::Mt;

/// A source of random numbers.
#[derive(Debug, Clone)]
pub struct Draw(Mt);

impl Draw {
    /// As `random.Random(seed)`.
    pub fn new(seed: u32) -> Self {
        Self(Mt::new_with_key([seed]))
    }

    /// From 0 to 1, without 1: 53 random bits.
    pub fn unit(&mut self) -> f64 {
        let (high, low) = (self.0.next_u32() >> 5, self.0.next_u32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// As `uniform(low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Less than `bound`, as `randrange(bound)`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let bits = u32::BITS - bound.leading_zeros();
        loop {
            let number = if bits == 0 { 0 } else { self.0.next_u32() >> (u32::BITS - bits) };
            if number < bound.max(1) {
                return number;
            }
        }
    }

    /// Two different numbers below `bound`, as `sample(range(bound), 2)`. Fewer than two numbers to
    /// draw from give what there is.
    pub fn pair(&mut self, bound: u32) -> (u32, u32) {
        // Python draws from a list that shrinks as long as that is not larger than a set would be.
        const LIST_MAX: u32 = 21;
        let first = self.below(bound);
        if bound <= LIST_MAX {
            let second = self.below(bound.saturating_sub(1));
            // The place of the first was taken by the last.
            return (first, if second == first { bound.saturating_sub(1) } else { second });
        }
        loop {
            let second = self.below(bound);
            if second != first {
                return (first, second);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // All expected numbers were printed by CPython 3.11.

    #[test]
    fn the_numbers_are_those_of_python() {
        let mut draw = Draw::new(42);
        let expected = [0.639_426_798_457_883_7, 0.025_010_755_222_666_936];
        assert_eq!([draw.unit(), draw.unit()].map(f64::to_bits), expected.map(f64::to_bits));
        assert_eq!(draw.uniform(0.0, 0.5).to_bits(), 0.137_514_659_184_559_63_f64.to_bits());
    }

    #[test]
    fn pairs_are_those_of_python() {
        let mut draw = Draw::new(43);
        let pairs: Vec<_> = (0..4).map(|_| draw.pair(98)).collect();
        assert_eq!(pairs, [(4, 36), (89, 97), (18, 59), (47, 85)]);
    }

    #[test]
    fn pairs_from_few_are_those_of_python() {
        let mut draw = Draw::new(43);
        let pairs: Vec<_> = (0..6).map(|_| draw.pair(3)).collect();
        assert_eq!(pairs, [(0, 1), (2, 0), (1, 2), (2, 0), (1, 2), (2, 0)]);
    }
}
