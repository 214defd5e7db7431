//! What goes wrong in a simulation, and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bolthole_broker::clock::Random;

/// The shortest mean time between two rollbacks of the store that is drawn at random.
const ROLLBACK_MEAN_MIN: Duration = Duration::from_secs(2);

/// Faults of a simulation. By default there are none; every mean time is in virtual time, every
/// share is from 0 to 1.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Mean times between the faults of each kind.
    pub every: BTreeMap<Kind, Duration>,
    /// Attempts during which their worker crashes: 1 is the first of the simulation.
    pub crash_at: BTreeSet<u64>,
    /// The share of attempts during which their worker crashes.
    pub crashes: f64,
    /// The share of messages that are lost.
    pub lost_messages: f64,
    /// The share of messages that arrive twice.
    pub repeated_messages: f64,
    /// The share of messages that arrive late, and so in another order.
    pub late_messages: f64,
    /// The share of requests to store and queue that are carried out and whose answer is lost.
    pub unanswered: f64,
    /// The share of those that are lost on their way.
    pub lost_requests: f64,
    /// The share of those that find no connection.
    pub refused: f64,
    /// The longest that a request or its answer is on its way, now and then excepted.
    pub latency: Duration,
    /// The longest that a body takes which is given no time of its own; most take none.
    pub bodies: Duration,
    /// From when on nothing more goes wrong. Never, by default.
    pub until: Option<Duration>,
}

/// A kind of fault that comes at random times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A worker's process ends where it stands. Another one starts.
    Crash,
    /// A worker takes no step for up to three leases, then goes on as if nothing had happened.
    Pause,
    /// A worker's machine is gone: nothing answers there, which the queue notices after 20 s.
    LoseHost,
    /// All workers crash.
    CrashAll,
    /// A worker is drained, and another one starts.
    Drain,
    /// A worker's connections are down for a while.
    Cut,
    /// One consumer loses its session with the queue.
    DropSession,
    /// All consumers do.
    DropSessions,
    /// The queue loses all that it knows.
    Wipe,
    /// The queue takes no messages for a while.
    Alarm,
    /// The store cannot be reached for a while.
    Outage,
    /// The store comes back without what happened last.
    Rollback,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Crash,
        Self::Pause,
        Self::LoseHost,
        Self::CrashAll,
        Self::Drain,
        Self::Cut,
        Self::DropSession,
        Self::DropSessions,
        Self::Wipe,
        Self::Alarm,
        Self::Outage,
        Self::Rollback,
    ];

    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Pause => "pause",
            Self::LoseHost => "lost host",
            Self::CrashAll => "all crash",
            Self::Drain => "drain",
            Self::Cut => "cut off",
            Self::DropSession => "session dropped",
            Self::DropSessions => "sessions dropped",
            Self::Wipe => "queue wiped",
            Self::Alarm => "queue alarm",
            Self::Outage => "store outage",
            Self::Rollback => "store rollback",
        }
    }
}

impl Faults {
    /// Faults of every kind, as a seed has it: some seeds have none, some all of them.
    pub fn random(random: &mut Random) -> Self {
        let mut faults = Self {
            latency: Duration::from_millis(random.draw() % 6),
            bodies: Duration::from_millis(if random.one_in(2) { 0 } else { 1 << random.below(12) }),
            ..Self::default()
        };
        if random.one_in(10) {
            return faults;
        }
        for kind in Kind::ALL {
            if random.one_in(4) {
                let mean = Duration::from_millis(20 << random.below(9));
                // Each takes the time of a restart. At ten in a second results would be lost faster
                // than they can be computed again, and no store does that.
                let shortest = if kind == Kind::Rollback { ROLLBACK_MEAN_MIN } else { mean };
                faults.every.insert(kind, mean.max(shortest));
            }
        }
        let mut share = || {
            if random.one_in(3) { [0.002, 0.02, 0.1, 0.3][random.below(4)] } else { 0.0 }
        };
        faults.crashes = share() / 10.0;
        faults.lost_messages = share();
        faults.repeated_messages = share();
        faults.late_messages = share();
        faults.unanswered = share();
        faults.lost_requests = share();
        faults.refused = share();
        if random.one_in(4) {
            faults.crash_at.insert(1 + random.draw() % 50);
        }
        faults.until = Some(Duration::from_millis(200 << random.below(8)));
        faults
    }
}
