//! The smallest schedule that still fails: faults are dropped, then tasks, as long as it does.

use super::schedule::Schedule;
use crate::dag::Dag;

/// Makes `failing` smaller while `fails` says that it still does, with at most `tries` questions.
/// A schedule that fails now and then only is asked about as often as `fails` thinks fit.
pub async fn shrink(
    failing: Schedule,
    mut tries: usize,
    mut fails: impl AsyncFnMut(&Schedule) -> bool,
) -> Schedule {
    let mut best = failing;
    loop {
        let mut smaller = candidates(&best).into_iter();
        let found = loop {
            let Some(candidate) = smaller.next() else { break None };
            if tries == 0 {
                return best;
            }
            tries -= 1;
            if fails(&candidate).await {
                break Some(candidate);
            }
        };
        match found {
            Some(candidate) => best = candidate,
            None => return best,
        }
    }
}

/// Smaller schedules, the boldest first.
fn candidates(schedule: &Schedule) -> Vec<Schedule> {
    let mut smaller = Vec::new();
    let faults = schedule.faults.len();
    for gone in 0..faults {
        let mut less = schedule.clone();
        less.faults.remove(gone);
        smaller.push(less);
    }
    let tasks = schedule.dag.nodes.len();
    for keep in [tasks / 4, tasks / 2, tasks * 3 / 4] {
        if (1..tasks).contains(&keep) {
            smaller.push(Schedule { dag: first(&schedule.dag, keep), ..schedule.clone() });
        }
    }
    if schedule.workers.len() > 1 {
        let mut less = schedule.clone();
        less.workers.pop();
        smaller.push(less);
    }
    smaller
}

/// The first tasks of a graph: what they need stands before them.
fn first(dag: &Dag, count: usize) -> Dag {
    let nodes = dag.nodes[..count].to_vec();
    let mut used = vec![false; count];
    nodes.iter().flat_map(|node| &node.inputs).for_each(|input| used[*input] = true);
    let outputs = (0..count).filter(|place| !used[*place] || dag.outputs.contains(place));
    Dag { outputs: outputs.collect(), nodes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::draw::draw;
    use crate::chaos::fault::{Fault, Harm, Trigger};

    #[tokio::test]
    async fn what_does_not_matter_goes() {
        let mut schedule = draw(3);
        let culprit = Fault { when: Trigger::After(1), harm: Harm::DeleteQueues };
        let other = Fault { when: Trigger::After(2), harm: Harm::PurgeQueues };
        schedule.faults = vec![other.clone(), culprit.clone(), other];
        let needed = schedule.dag.nodes.len() / 3;
        let small = shrink(schedule, 100, async |schedule: &Schedule| {
            schedule.faults.contains(&culprit) && schedule.dag.nodes.len() > needed
        })
        .await;
        assert_eq!(small.faults, [culprit]);
        assert!(small.dag.nodes.len() < 2 * needed + 4 && small.workers.len() == 1, "{small}");
        assert!(!small.dag.outputs.is_empty());
    }

    #[tokio::test]
    async fn nothing_is_asked_beyond_the_tries() {
        let mut asked = 0;
        let schedule = draw(4);
        let same = shrink(schedule.clone(), 2, async |_: &Schedule| {
            asked += 1;
            false
        })
        .await;
        assert_eq!((same, asked), (schedule, 2));
    }
}
