//! A set of tasks of one segment: a bit each, as many as the highest needs.

/// A set of task indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Bits {
    /// Whether the index is in the set.
    pub(crate) fn has(&self, index: u16) -> bool {
        let word = self.words.get(usize::from(index) / 64);
        word.is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Adds an index.
    pub(crate) fn set(&mut self, index: u16) {
        let place = usize::from(index) / 64;
        if place >= self.words.len() {
            self.words.resize(place + 1, 0);
        }
        let bit = 1 << (index % 64);
        self.count += usize::from(self.words[place] & bit == 0);
        self.words[place] |= bit;
    }

    /// Takes an index out.
    pub(crate) fn clear(&mut self, index: u16) {
        if self.has(index) {
            self.words[usize::from(index) / 64] &= !(1 << (index % 64));
            self.count -= 1;
        }
    }

    /// Whether the set has no index.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its indexes, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> {
        let words = self.words.iter().enumerate();
        words.flat_map(|(place, word)| {
            let set = (0..64).filter(move |bit| word >> bit & 1 == 1);
            set.filter_map(move |bit| u16::try_from(place * 64 + bit).ok())
        })
    }

    /// Takes out at most `max` indexes that `other` has too; ascending.
    pub(crate) fn take_common(&mut self, other: &Self, max: usize) -> Vec<u16> {
        let mut taken = Vec::new();
        for (place, (word, other)) in self.words.iter_mut().zip(&other.words).enumerate() {
            let mut common = *word & other;
            while common != 0 && taken.len() < max {
                let bit = common.trailing_zeros();
                common &= common - 1;
                *word &= !(1 << bit);
                taken.extend(u16::try_from(place * 64 + bit as usize));
            }
        }
        self.count -= taken.len();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_indexes_are_taken_once_and_no_more_than_asked_for() {
        let (mut wanted, mut finished) = (Bits::default(), Bits::default());
        for index in [0, 63, 64, 1000, u16::MAX] {
            wanted.set(index);
            wanted.set(index);
        }
        for index in [5, 63, 64, u16::MAX] {
            finished.set(index);
        }
        assert_eq!(wanted.take_common(&finished, 2), [63, 64]);
        assert_eq!(wanted.take_common(&finished, 9), [u16::MAX]);
        assert_eq!(wanted.take_common(&finished, 9), [0; 0]);
        assert!(wanted.has(0) && wanted.has(1000) && !wanted.has(64));
        wanted.clear(0);
        wanted.clear(0);
        wanted.clear(1000);
        assert!(wanted.is_empty());
    }
}
