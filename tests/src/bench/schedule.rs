//! How long a graph takes on slots that cost nothing: no overhead, no transfers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// A task: how long it runs, and the places of its inputs, all before its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    /// How long it runs.
    pub time: Duration,
    /// Its inputs.
    pub inputs: Vec<usize>,
}

/// The longest path through the graph, or its work divided by the slots if that is more: no schedule
/// is shorter.
pub fn bound(tasks: &[Timed], slots: u32) -> Duration {
    let mut ends: Vec<Duration> = Vec::with_capacity(tasks.len());
    for task in tasks {
        let start = task.inputs.iter().filter_map(|input| ends.get(*input)).max();
        ends.push(start.copied().unwrap_or_default() + task.time);
    }
    let work: Duration = tasks.iter().map(|task| task.time).sum();
    ends.into_iter().max().unwrap_or_default().max(work / slots.max(1))
}

/// What the best known simple order takes: whenever a slot is free, the ready task with the longest
/// way to the end, its own time included (list scheduling by critical path; Graham 1969, Kwok and
/// Ahmad 1999).
pub fn critical_path_first(tasks: &[Timed], slots: u32) -> Duration {
    let mut rank = vec![Duration::ZERO; tasks.len()];
    let mut consumers = vec![Vec::new(); tasks.len()];
    for (place, task) in tasks.iter().enumerate().rev() {
        rank[place] += task.time;
        for input in &task.inputs {
            rank[*input] = rank[*input].max(rank[place]);
            consumers[*input].push(place);
        }
    }
    let mut missing: Vec<_> = tasks.iter().map(|task| task.inputs.len()).collect();
    let entry = |place: usize| (rank[place], Reverse(place));
    let mut ready: BinaryHeap<_> =
        (0..tasks.len()).filter(|place| missing[*place] == 0).map(entry).collect();
    let mut running = BinaryHeap::new();
    let (mut now, mut free) = (Duration::ZERO, slots.max(1));
    loop {
        while free > 0
            && let Some((_, Reverse(place))) = ready.pop()
        {
            free -= 1;
            running.push(Reverse((now + tasks[place].time, place)));
        }
        let Some(Reverse((end, done))) = running.pop() else { return now };
        (now, free) = (end, free + 1);
        for consumer in &consumers[done] {
            missing[*consumer] -= 1;
            if missing[*consumer] == 0 {
                ready.push(entry(*consumer));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(millis: u64, inputs: &[usize]) -> Timed {
        Timed { time: Duration::from_millis(millis), inputs: inputs.to_vec() }
    }

    #[test]
    fn the_bound_is_the_longest_path_or_the_work() {
        let chain = [timed(3, &[]), timed(4, &[0]), timed(1, &[])];
        assert_eq!(bound(&chain, 2), Duration::from_millis(7));
        assert_eq!(bound(&chain, 1), Duration::from_millis(8));
        assert_eq!(bound(&[], 1), Duration::ZERO);
    }

    #[test]
    fn what_has_the_longest_way_goes_first() {
        // Two short ones first would leave the long one for the end.
        let graph = [timed(1, &[]), timed(1, &[]), timed(2, &[]), timed(3, &[2])];
        assert_eq!(critical_path_first(&graph, 2), Duration::from_millis(5));
        assert_eq!(critical_path_first(&graph, 1), Duration::from_millis(7));
        assert_eq!(critical_path_first(&[], 1), Duration::ZERO);
    }
}
