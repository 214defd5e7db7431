//! A schedule from a seed.

use bolthole::FailurePolicy;

use bolthole_broker::failpoint::Point;

use super::fault::{Fault, Harm, Link, Net, Rabbit, Redis, Trigger};
use super::schedule::{Manner, Schedule};
use crate::dag::{Dag, Random};

/// What a run lasts without faults, in milliseconds, about.
const LASTS_MS: u64 = 1_200;
/// One schedule in so many harms the servers: those need a pair of their own.
const SERVERS_ONE_IN: usize = 6;
/// Of those that harm a server, one in so many does without Redis for [`OUTAGE_MS`].
const OUTAGE_ONE_IN: usize = 12;
/// Longer than anybody waits for an answer, and than every lease.
const OUTAGE_MS: u64 = 30_000;
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
    let manner = manner(tasks, &mut random);
    let count = if calm { 0 } else { 1 + random.below(if harms_servers { 2 } else { 4 }) };
    let mut faults = Vec::with_capacity(count);
    for place in 0..count {
        let harm = if harms_servers && place == 0 {
            server(&mut random)
        } else {
            process(workers.len(), &mut random)
        };
        // What a client has not submitted when it dies is submitted by nobody.
        let harm = match harm {
            harm if manner == Manner::OneByOne && harm.ends_client() => {
                Harm::StopClient { ms: 100 + random.draw() % 1_000 }
            }
            harm => harm,
        };
        faults.push(Fault { when: trigger(&harm, &dag, &mut random), harm });
    }
    Schedule { seed, workers, policy, hold_ms, manner, faults, dag }
}

fn manner(tasks: u64, random: &mut Random) -> Manner {
    match random.below(10) {
        0..5 => Manner::InOrder,
        5..7 => Manner::AsCompleted,
        7..9 => Manner::OneByOne,
        _ => Manner::Cancel(random.draw() % (tasks * 3 / 4).max(1)),
    }
}

/// When: mostly while tasks run, so that there is something to lose. A client comes to harm at every
/// stage of its own: before it is connected, while it submits, after each result.
fn trigger(harm: &Harm, dag: &Dag, random: &mut Random) -> Trigger {
    let (tasks, outputs) = (dag.nodes.len() as u64, dag.outputs.len() as u64);
    match random.below(8) {
        _ if matches!(harm, Harm::Point { .. }) => Trigger::After(0),
        0..3 if harm.is_clients() => Trigger::Said(random.draw() % 3),
        3 if harm.is_clients() => Trigger::Said(2 + random.draw() % (2 * outputs + 1)),
        0 => Trigger::After(random.draw() % 600),
        _ => Trigger::Finished(random.draw() % (tasks * 3 / 4).max(1)),
    }
}

fn process(workers: usize, random: &mut Random) -> Harm {
    let worker = random.below(workers);
    let soon = 50 + random.draw() % 400;
    // The last worker does not go for good.
    let back_ms = (workers == 1 || !random.one_in(3)).then_some(soon);
    match random.below(27) {
        16..21 => point(workers, random),
        21..26 => net(workers, random),
        26 => Harm::LoseHost { worker, back_ms },
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

/// Something at a failpoint of a worker or, now and then, of the client.
fn point(workers: usize, random: &mut Random) -> Harm {
    let is_clients = |point: &&Point| {
        use Point::{ActivateAfterReply, ActivateBeforeSend, StageBefore, SubmitPublished};
        matches!(point, StageBefore | ActivateBeforeSend | ActivateAfterReply | SubmitPublished)
    };
    let worker = (!random.one_in(5)).then(|| random.below(workers));
    let points: Vec<&Point> =
        Point::ALL.iter().filter(|point| is_clients(point) == worker.is_none()).collect();
    let point = points[random.below(points.len())];
    let action = match random.below(8) {
        0..3 => "abort",
        3..6 => "stop",
        _ => match point {
            Point::CommitAfterReply => "error(ECONNRESET)",
            Point::SpillWrite => "error(ENOSPC)",
            _ => "delay(300ms)",
        },
    };
    // A client reaches each of its places once.
    let most = 1 << random.below(6);
    let hit = if worker.is_none() { 1 } else { 1 + random.below(most) };
    let rule = format!("{}={action}@{hit}", point.name());
    Harm::Point { worker, rule, ms: 100 + random.draw() % 2_400 }
}

/// A network that fails. Bits are flipped only where digests tell: elsewhere the servers would be
/// told something else in earnest.
fn net(workers: usize, random: &mut Random) -> Harm {
    let worker = (!random.one_in(5)).then(|| random.below(workers));
    let link = match random.below(if worker.is_some() { 3 } else { 2 }) {
        0 => Link::Rabbit,
        1 => Link::Redis,
        _ => Link::Data,
    };
    let (up, bytes) = (random.one_in(2), random.draw() % 50_000);
    let net = match random.below(10) {
        0 => Net::Delay(1 + random.draw() % 300),
        1 => Net::Throttle(5_000 + random.draw() % 50_000),
        2 => Net::Blackhole { up: true, down: true },
        3 => Net::Blackhole { up, down: !up },
        4 | 5 => Net::Cut { up, bytes },
        6 if link == Link::Data => Net::Flip { up, nth: bytes },
        6 | 7 => Net::HalfClose { up },
        8 => Net::Reset,
        _ => Net::Refuse,
    };
    Harm::Net { worker, link, net, ms: 200 + random.draw() % 2_800 }
}

fn server(random: &mut Random) -> Harm {
    let ms = 200 + random.draw() % 2_000;
    if random.one_in(OUTAGE_ONE_IN) {
        return Harm::Redis(Redis::Kill(OUTAGE_MS));
    }
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
        // 24 kinds of harm to processes and servers, 15 places of a worker and 4 of a client with
        // three actions each, and 8 ways of a network to fail on two links, 9 on the third.
        assert!(kinds.len() > 24 + 3 * 19 + 2 * 7 + 8 - 10, "{}: {kinds:?}", kinds.len());
    }

    #[test]
    fn clients_do_everything_and_are_rarely_without_redis_for_long() {
        let schedules: Vec<Schedule> = (0..3_000).map(draw).collect();
        let share = |is: &dyn Fn(&Schedule) -> bool| {
            schedules.iter().filter(|schedule| is(schedule)).count()
        };
        let in_order = share(&|schedule| schedule.manner == Manner::InOrder);
        let cancel = share(&|schedule| matches!(schedule.manner, Manner::Cancel(_)));
        assert!((1_200..1_800).contains(&in_order) && (200..400).contains(&cancel));
        let outage = |fault: &Fault| fault.harm == Harm::Redis(Redis::Kill(OUTAGE_MS));
        let outages = share(&|schedule| schedule.faults.iter().any(outage));
        assert!(
            (15..75).contains(&outages),
            "{outages} of 3000 schedules, each half a minute long"
        );
        let alone = |schedule: &Schedule| {
            schedule.manner == Manner::OneByOne
                && schedule.faults.iter().any(|fault| fault.harm.ends_client())
        };
        assert_eq!(share(&alone), 0);
    }

    #[test]
    fn the_only_worker_comes_back() {
        for schedule in (0..500).map(draw).filter(|schedule| schedule.workers.len() == 1) {
            let gone = |fault: &Fault| {
                matches!(fault.harm, Harm::Kill { back_ms: None, .. })
                    || matches!(fault.harm, Harm::Leave { back_ms: None, .. })
                    || matches!(fault.harm, Harm::LoseHost { back_ms: None, .. })
            };
            assert!(!schedule.faults.iter().any(gone), "{schedule}");
        }
    }
}
