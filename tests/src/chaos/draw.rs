//! A schedule from a seed.

use bolthole::FailurePolicy;

use super::schedule::{Fault, Harm, Rabbit, Redis, Schedule, Trigger};
use crate::dag::{Dag, Random};

/// What a run lasts without faults, in milliseconds, about.
const LASTS_MS: u64 = 1_200;
/// One schedule in so many harms the servers: those need a pair of their own.
const SERVERS_ONE_IN: usize = 6;
/// One schedule in so many has no fault at all: then every body runs exactly once.
const CALM_ONE_IN: usize = 20;

/// The schedule of a seed.
pub fn draw(seed: u64) -> Schedule {
    let mut random = Random::new(seed);
    let dag = Dag::random(&mut random);
    let tasks = dag.nodes.len() as u64;
    let workers: Vec<usize> = (0..=random.below(4)).map(|_| 1 + random.below(3)).collect();
    let slots = workers.iter().sum::<usize>() as u64;
    let hold_ms = (LASTS_MS * slots / tasks).clamp(2, 60);
    let policy = if random.one_in(4) { FailurePolicy::FailFast } else { FailurePolicy::Continue };
    let harms_servers = random.one_in(SERVERS_ONE_IN);
    let calm = random.one_in(CALM_ONE_IN);
    let count = if calm { 0 } else { 1 + random.below(if harms_servers { 2 } else { 4 }) };
    let mut faults = Vec::with_capacity(count);
    for place in 0..count {
        let harm = if harms_servers && place == 0 {
            server(&mut random)
        } else {
            process(workers.len(), &mut random)
        };
        faults.push(Fault { when: trigger(&harm, tasks, &mut random), harm });
    }
    Schedule { seed, workers, policy, hold_ms, faults, dag }
}

/// When: mostly while tasks run, so that there is something to lose.
fn trigger(harm: &Harm, tasks: u64, random: &mut Random) -> Trigger {
    let of_client = matches!(harm, Harm::KillClient { .. } | Harm::StopClient { .. });
    match random.below(8) {
        0..3 if of_client => Trigger::Said(random.draw() % 4),
        0 => Trigger::After(random.draw() % 600),
        _ => Trigger::Finished(random.draw() % (tasks * 3 / 4).max(1)),
    }
}

fn process(workers: usize, random: &mut Random) -> Harm {
    let worker = random.below(workers);
    let soon = 50 + random.draw() % 400;
    // The last worker does not go for good.
    let back_ms = (workers == 1 || !random.one_in(3)).then_some(soon);
    match random.below(16) {
        0..4 => Harm::Kill { worker, back_ms },
        4 => Harm::KillAll { back_ms: soon },
        // Shorter and longer than the lease.
        5..8 => Harm::Stop { worker, ms: 100 + random.draw() % 2_900 },
        8..10 => Harm::Leave { worker, back_ms },
        10..12 => Harm::KillClient { back_ms: soon },
        12 => Harm::StopClient { ms: 100 + random.draw() % 1_000 },
        13 => Harm::DeleteQueues,
        14 => Harm::PurgeQueues,
        _ => Harm::Repeat {
            tasks: 1 + u16::try_from(random.below(40)).unwrap_or(0),
            fresh: random.one_in(2),
        },
    }
}

fn server(random: &mut Random) -> Harm {
    let ms = 200 + random.draw() % 2_000;
    match random.below(14) {
        0 => Harm::Rabbit(Rabbit::Restart),
        1 => Harm::Rabbit(Rabbit::Kill(ms)),
        2 => Harm::Rabbit(Rabbit::Wipe),
        3 => Harm::Rabbit(Rabbit::CloseConnections),
        4 => Harm::Rabbit(Rabbit::MemoryAlarm(2 * ms)),
        5 => Harm::Rabbit(Rabbit::DiskAlarm(2 * ms)),
        6 => Harm::Redis(Redis::FlushFunctions),
        7 => Harm::Redis(Redis::Restart),
        8 | 9 => Harm::Redis(Redis::Kill(ms)),
        10 | 11 => Harm::Redis(Redis::RollBack(1 + random.below(30))),
        12 => Harm::Redis(Redis::Stop(ms)),
        _ => Harm::Redis(Redis::Full(ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_schedule_and_seeds_give_every_kind_of_fault() {
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        let kinds = |seed| draw(seed).faults.into_iter().map(|fault| fault.harm.kind());
        let kinds: std::collections::BTreeSet<_> = (0..2_000).flat_map(kinds).collect();
        assert_eq!(kinds.len(), 22, "{kinds:?}");
    }

    #[test]
    fn the_only_worker_comes_back() {
        for schedule in (0..500).map(draw).filter(|schedule| schedule.workers.len() == 1) {
            let gone = |fault: &Fault| {
                matches!(fault.harm, Harm::Kill { back_ms: None, .. })
                    || matches!(fault.harm, Harm::Leave { back_ms: None, .. })
            };
            assert!(!schedule.faults.iter().any(gone), "{schedule}");
        }
    }
}
