//! Where messages wait: a user queue's lanes, and on which level of them.
//!
//! A run's messages wait on the level that the number of them calls for, so a small run never waits
//! behind a large one: between two levels workers choose by how much of their time each run has had.
//! Scheduling by attained service with few levels (Corbató's multilevel feedback queue, 1962), which
//! needs to know nothing of a run beforehand, and nobody who keeps a window of it open.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::names::QueueName;
use crate::id::RunId;
use crate::limits::{LEVEL_MESSAGES, LEVEL_RUNS_MAX, PARCEL_TASKS_MAX};

/// The two bands of a user queue. Two queues instead of broker priorities: a prefetch full of one
/// never holds up the other, and every broker version has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lane {
    /// Released tasks: finishing what was started.
    Hi,
    /// Source tasks: starting something new.
    Lo,
}

impl Lane {
    /// Both, the urgent one first.
    pub const ALL: [Self; 2] = [Self::Hi, Self::Lo];
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hi => "hi",
            Self::Lo => "lo",
        })
    }
}

/// How many messages of its run there have been.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum Level {
    /// Few: all of a small run.
    #[default]
    First,
    /// As many as a run of some ten thousand short tasks has.
    Second,
    /// More.
    Third,
}

impl Level {
    /// All, that of the smallest runs first.
    pub const ALL: [Self; 3] = [Self::First, Self::Second, Self::Third];

    /// The level of a message that is one of so many.
    fn of(messages: u64) -> Self {
        match LEVEL_MESSAGES {
            [first, _] if messages <= first => Self::First,
            [_, second] if messages <= second => Self::Second,
            _ => Self::Third,
        }
    }
}

/// Where a message goes, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// The user queue.
    pub queue: QueueName,
    /// Its lane.
    pub lane: Lane,
    /// The level of the lane.
    pub level: Level,
}

impl Route {
    /// The urgent lane of a queue, on the first level.
    pub fn hi(queue: &QueueName) -> Self {
        Self { queue: queue.clone(), lane: Lane::Hi, level: Level::First }
    }

    /// The other lane of a queue, on the first level.
    pub fn lo(queue: &QueueName) -> Self {
        Self { queue: queue.clone(), lane: Lane::Lo, level: Level::First }
    }

    /// The same lane on this level.
    #[must_use]
    pub fn at(self, level: Level) -> Self {
        Self { level, ..self }
    }

    /// Both lanes of a queue on all levels, the urgent ones first.
    pub fn all(queue: &QueueName) -> impl Iterator<Item = Self> {
        let queue = queue.clone();
        let lanes = Lane::ALL.into_iter().flat_map(|lane| Level::ALL.map(|level| (lane, level)));
        lanes.map(move |(lane, level)| Self { queue: queue.clone(), lane, level })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.queue, self.lane)?;
        match self.level {
            Level::First => Ok(()),
            Level::Second => f.write_str(".2"),
            Level::Third => f.write_str(".3"),
        }
    }
}

/// How many messages of each run one process has published. Of runs that it forgets, the oldest of
/// many, it counts from the beginning again.
#[derive(Debug, Default)]
pub struct Levels(Mutex<BTreeMap<RunId, u64>>);

impl Levels {
    /// The level of so many more messages of a run: one for all of them, so that they keep their
    /// order.
    pub fn of_next(&self, run: RunId, messages: usize) -> Level {
        Level::of(self.add(run, messages as u64))
    }

    /// So many tasks of a run are about to be published, in several parts. Those belong on one level:
    /// workers take from all of them at once, and what was to come last would come in between.
    pub fn expect(&self, run: RunId, tasks: usize) {
        self.add(run, (tasks / PARCEL_TASKS_MAX) as u64);
    }

    fn add(&self, run: RunId, messages: u64) -> u64 {
        let mut published = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = published.entry(run).or_default();
        *count = count.saturating_add(messages);
        let count = *count;
        if published.len() > LEVEL_RUNS_MAX {
            published.pop_first();
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_moves_to_the_next_level_as_it_grows() {
        let levels = Levels::default();
        let (large, small) = (RunId::new(0, 1), RunId::new(0, 2));
        let [first, second] = LEVEL_MESSAGES.map(|count| usize::try_from(count).unwrap());
        assert_eq!(levels.of_next(large, first), Level::First);
        assert_eq!(levels.of_next(large, 1), Level::Second);
        assert_eq!(levels.of_next(large, second - first - 1), Level::Second);
        assert_eq!(levels.of_next(large, 1), Level::Third);
        assert_eq!(levels.of_next(small, 1), Level::First, "each run by itself");
        assert_eq!(levels.of_next(small, second), Level::Third, "large from the start");
    }

    #[test]
    fn what_comes_in_parts_is_on_one_level() {
        let levels = Levels::default();
        let run = RunId::new(0, 1);
        levels.expect(run, 100_000);
        assert_eq!(levels.of_next(run, 256), Level::Third);
        levels.expect(RunId::new(0, 2), 10);
        assert_eq!(levels.of_next(RunId::new(0, 2), 10), Level::First);
    }

    #[test]
    fn it_counts_for_a_bounded_number_of_runs() {
        let levels = Levels::default();
        for random in 0..LEVEL_RUNS_MAX as u128 + 10 {
            levels.of_next(RunId::new(random.try_into().unwrap(), 0), 1);
        }
        assert_eq!(levels.0.lock().unwrap().len(), LEVEL_RUNS_MAX);
    }

    #[test]
    fn every_lane_has_a_name_of_its_own() {
        let queue = QueueName::default();
        let names: Vec<String> = Route::all(&queue).map(|route| route.to_string()).collect();
        let hi = ["default.hi", "default.hi.2", "default.hi.3"];
        let lo = ["default.lo", "default.lo.2", "default.lo.3"];
        assert_eq!(names, [hi, lo].concat());
    }
}
