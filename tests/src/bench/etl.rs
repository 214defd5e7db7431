//! The graph of a custom ETL: load, process against a reference, roll a window of three, compare
//! random pairs, reduce.

use std::time::Duration;

use bolthole::Delayed;

use super::draw::Draw;
use super::schedule::Timed;
use super::tasks::{compare, load, process, reduce, reference, roll};

/// Of the durations; the pairs are drawn from the next.
const SEED: u32 = 42;

/// How long each task of the graph runs, in seconds, and what is compared.
#[derive(Debug, Clone)]
pub struct Etl {
    load: Vec<f64>,
    reference: f64,
    process: Vec<f64>,
    roll: Vec<f64>,
    compare: Vec<f64>,
    reduce: f64,
    pairs: Vec<(u32, u32)>,
}

impl Etl {
    /// `files` (3 at least) and `pairs`, with the durations of the original or with none.
    pub fn new(files: u32, pairs: u32, sleeps: bool) -> Self {
        let mut draw = Draw::new(SEED);
        let mut time = |low, high| if sleeps { draw.uniform(low, high) } else { 0.0 };
        let windows = files.saturating_sub(2);
        let load = (0..files).map(|_| time(0.0, 0.5)).collect();
        let reference = time(0.5, 1.0);
        let process = (0..files).map(|_| time(0.0, 0.5)).collect();
        let roll = (0..windows).map(|_| time(0.0, 0.2)).collect();
        let compare = (0..pairs).map(|_| time(0.0, 0.1)).collect();
        let reduce = time(0.0, 1.0);
        let mut draw = Draw::new(SEED + 1);
        let pairs = (0..pairs).map(|_| draw.pair(windows)).collect();
        Self { load, reference, process, roll, compare, reduce, pairs }
    }

    /// The calls; the last one's result is [`Etl::expected`].
    pub fn calls(&self) -> Delayed<i64> {
        let reference = reference::delayed(self.reference);
        let process: Vec<_> = (0..)
            .zip(self.load.iter().zip(&self.process))
            .map(|(i, (time, next))| process::delayed(load::delayed(i, time), &reference, next))
            .collect();
        let windows = process.windows(3).zip(&self.roll);
        let roll: Vec<_> =
            windows.map(|(w, time)| roll::delayed(&w[0], &w[1], &w[2], time)).collect();
        let pairs = self.pairs.iter().zip(&self.compare);
        let compare: Vec<_> = pairs
            .map(|((a, b), time)| compare::delayed(&roll[*a as usize], &roll[*b as usize], time))
            .collect();
        reduce::delayed(compare, self.reduce)
    }

    /// What the graph computes.
    pub fn expected(&self) -> i64 {
        // A window of three days from i: i + (i + 1) + (i + 2), and one for each.
        let window = |place: u32| 3 * i64::from(place) + 6;
        self.pairs.iter().map(|(a, b)| window(*a) - window(*b)).sum()
    }

    /// How many tasks it has.
    pub fn tasks(&self) -> usize {
        self.load.len() + self.process.len() + self.roll.len() + self.compare.len() + 2
    }

    /// The same graph as durations.
    pub fn timed(&self) -> Vec<Timed> {
        let (files, windows) = (self.load.len(), self.roll.len());
        let task = |seconds: f64, inputs| Timed { time: Duration::from_secs_f64(seconds), inputs };
        let mut tasks: Vec<_> = self.load.iter().map(|time| task(*time, vec![])).collect();
        tasks.push(task(self.reference, vec![]));
        let process = self.process.iter().enumerate();
        tasks.extend(process.map(|(i, time)| task(*time, vec![i, files])));
        let (process, roll) = (files + 1, 2 * files + 1);
        let rolled = self.roll.iter().enumerate();
        tasks.extend(rolled.map(|(i, time)| task(*time, (process + i..process + i + 3).collect())));
        let compared = self.pairs.iter().zip(&self.compare);
        tasks.extend(
            compared
                .map(|((a, b), time)| task(*time, vec![roll + *a as usize, roll + *b as usize])),
        );
        let compare = roll + windows;
        tasks.push(task(self.reduce, (compare..compare + self.compare.len()).collect()));
        tasks
    }
}

#[cfg(test)]
mod tests {
    use super::super::schedule::{bound, critical_path_first};
    use super::*;

    #[test]
    fn the_graph_is_the_one_of_the_other_systems() {
        let etl = Etl::new(100, 200, true);
        assert_eq!((etl.tasks(), etl.timed().len()), (500, 500));
        // What their drivers print, in seconds.
        let seconds = |time: Duration| format!("{:.2}", time.as_secs_f64());
        assert_eq!(seconds(bound(&etl.timed(), 20)), "3.49");
        assert_eq!(seconds(critical_path_first(&etl.timed(), 20)), "3.61");
    }

    #[test]
    fn a_sequential_run_gives_the_expected_answer() {
        let etl = Etl::new(30, 40, false);
        let answer = bolthole::testing::Sequential::new().compute(&etl.calls()).unwrap();
        assert_eq!(answer, etl.expected());
    }
}
