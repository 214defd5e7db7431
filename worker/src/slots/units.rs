//! Units of the worker's resources: which are free, and which an attempt has. Pure bookkeeping.
//!
//! Units are numbered from 0 and kept as ranges, lowest first: an amount may count megabytes as well
//! as devices.

#![expect(clippy::single_range_in_vec_init, reason = "a list of ranges is meant, of one range too")]

use std::collections::BTreeMap;
use std::ops::Range;

use bolthole_broker::call::Units;

/// The units that no attempt has, by the name of the resource.
#[derive(Debug, Default)]
pub(super) struct Free(Units);

impl Free {
    /// All units of these amounts.
    pub(super) fn all(resources: BTreeMap<String, u32>) -> Self {
        let units = |(name, amount)| (name, if amount > 0 { vec![0..amount] } else { vec![] });
        Self(resources.into_iter().map(units).collect())
    }

    /// Whether there are as many as needed.
    pub(super) fn has(&self, needed: &BTreeMap<String, u32>) -> bool {
        let has = |(name, amount): (&String, &u32)| {
            self.0.get(name).is_some_and(|free| count(free) >= *amount as usize)
        };
        needed.iter().all(has)
    }

    /// Takes as many as needed, or as there are.
    pub(super) fn take(&mut self, needed: &BTreeMap<String, u32>) -> Units {
        let take = |(name, amount): (&String, &u32)| {
            let free = self.0.get_mut(name)?;
            Some((name.clone(), take_lowest(free, *amount)))
        };
        needed.iter().filter_map(take).collect()
    }

    /// They are free again.
    pub(super) fn give_back(&mut self, taken: Units) {
        for (name, ranges) in taken {
            let free = self.0.entry(name).or_default();
            free.extend(ranges);
            free.sort_unstable_by_key(|range| range.start);
            free.dedup_by(|next, last| {
                let joined = last.end == next.start;
                if joined {
                    last.end = next.end;
                }
                joined
            });
        }
    }
}

/// Whether these units are what is needed, no more and no less.
pub(super) fn are(units: &Units, needed: &BTreeMap<String, u32>) -> bool {
    let amount = |(name, ranges): (&String, &Vec<Range<u32>>)| {
        needed.get(name).is_some_and(|needed| count(ranges) == *needed as usize)
    };
    units.len() == needed.len() && units.iter().all(amount)
}

fn count(ranges: &[Range<u32>]) -> usize {
    ranges.iter().map(Range::len).sum()
}

fn take_lowest(free: &mut Vec<Range<u32>>, mut amount: u32) -> Vec<Range<u32>> {
    let mut taken = Vec::new();
    while amount > 0
        && let Some(first) = free.first_mut()
    {
        let end = first.end.min(first.start.saturating_add(amount));
        taken.push(first.start..end);
        amount -= end - first.start;
        first.start = end;
        if first.start == first.end {
            free.remove(0);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(amounts: &[(&str, u32)]) -> BTreeMap<String, u32> {
        amounts.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect()
    }

    #[test]
    fn each_unit_is_with_one_attempt_at_a_time() {
        let mut free = Free::all(amounts(&[("gpu", 4), ("none", 0)]));
        let (one, two) = (amounts(&[("gpu", 1)]), amounts(&[("gpu", 2)]));
        let first = free.take(&one);
        let second = free.take(&two);
        assert_eq!((&first["gpu"], &second["gpu"]), (&vec![0..1], &vec![1..3]));
        assert!(free.has(&one) && !free.has(&two));
        free.give_back(first);
        let parts = free.take(&two);
        assert_eq!(parts["gpu"], [0..1, 3..4], "in two parts");
        assert!(are(&parts, &two) && !are(&parts, &one) && !are(&parts, &amounts(&[])));
        assert!(!free.has(&one));
        free.give_back(second);
        free.give_back(parts);
        assert!(free.has(&amounts(&[("gpu", 4), ("none", 0)])));
        assert_eq!(free.0["gpu"], [0..4]);
    }

    #[test]
    fn what_a_worker_does_not_have_nobody_gets() {
        let mut free = Free::all(amounts(&[("gpu", 1)]));
        assert!(!free.has(&amounts(&[("licence", 0)])) && free.has(&amounts(&[])));
        assert!(free.take(&amounts(&[("licence", 1)])).is_empty());
    }
}
