//! What may go wrong, and when.

use serde::{Deserialize, Serialize};

/// Something that goes wrong at some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When.
    pub when: Trigger,
    /// What.
    pub harm: Harm,
}

/// When a fault is caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// So many milliseconds after the client was started.
    After(u64),
    /// When so many tasks have finished.
    Finished(u64),
    /// When the client has said so many things: connected, submitted, then one for each result.
    Said(u64),
}

/// What goes wrong. Workers are named by their place among the schedule's workers; whatever lasts
/// says for how many milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Harm {
    /// A worker is killed (SIGKILL); another one takes its place after that time, or none.
    Kill {
        /// The worker.
        worker: usize,
        /// When its place is taken.
        back_ms: Option<u64>,
    },
    /// All workers are killed at once.
    KillAll {
        /// When new ones start.
        back_ms: u64,
    },
    /// A worker stands still (SIGSTOP, SIGCONT).
    Stop {
        /// The worker.
        worker: usize,
        /// For how long.
        ms: u64,
    },
    /// A worker's host is lost: the worker stands still, no connection of it passes anything, and
    /// none is ever closed. It does not come back.
    LoseHost {
        /// The worker.
        worker: usize,
        /// When its place is taken, by one on another host.
        back_ms: Option<u64>,
    },
    /// A worker is told to go (SIGTERM).
    Leave {
        /// The worker.
        worker: usize,
        /// When its place is taken.
        back_ms: Option<u64>,
    },
    /// The client is killed; another one asks for the same run by its name.
    KillClient {
        /// When the other one starts.
        back_ms: u64,
    },
    /// The client stands still.
    StopClient {
        /// For how long.
        ms: u64,
    },
    /// A worker, or the client, comes to harm at a failpoint: [`bolthole_broker::failpoint`]. Its
    /// first process is started with the rule, so the trigger does not matter.
    Point {
        /// The worker; `None` is the client.
        worker: Option<usize>,
        /// `point=action@hit`.
        rule: String,
        /// When a process that has ended is replaced, or one that is stopped goes on.
        ms: u64,
    },
    /// The network fails between a worker, or the client, and someone else.
    Net {
        /// The worker; `None` is the client.
        worker: Option<usize>,
        /// Who is at the other end.
        link: Link,
        /// How it fails.
        net: Net,
        /// For how long.
        ms: u64,
    },
    /// The run's queues are deleted under their consumers.
    DeleteQueues,
    /// All waiting messages are removed.
    PurgeQueues,
    /// Tasks are rung for once more, ready or not, as if their message came from another life of the
    /// store or, with `fresh`, from this one.
    Repeat {
        /// How many.
        tasks: u16,
        /// Whether the message claims to be of today.
        fresh: bool,
    },
    /// Something happens to RabbitMQ.
    Rabbit(Rabbit),
    /// Something happens to Redis.
    Redis(Redis),
}

/// The other end of a connection of a worker or a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Link {
    /// RabbitMQ.
    Rabbit,
    /// Redis.
    Redis,
    /// Whoever reads results from its data port.
    Data,
}

impl Link {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rabbit, Self::Redis, Self::Data];
}

/// How a network fails: see [`crate::proxy::Proxy`]. `up` is towards the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Net {
    /// Everything arrives so many milliseconds later.
    Delay(u64),
    /// So many bytes pass in a second.
    Throttle(u64),
    /// Nothing passes, and nobody is told.
    Blackhole {
        /// Towards the server.
        up: bool,
        /// From the server.
        down: bool,
    },
    /// A connection is reset after so many bytes more.
    Cut {
        /// Which way they are counted.
        up: bool,
        /// How many.
        bytes: u64,
    },
    /// A bit of this byte from now on is flipped.
    Flip {
        /// Which way they are counted.
        up: bool,
        /// Which one.
        nth: u64,
    },
    /// One way of all connections is closed.
    HalfClose {
        /// Which one.
        up: bool,
    },
    /// All connections are reset.
    Reset,
    /// All connections are reset, and new ones refused.
    Refuse,
}

/// What happens to RabbitMQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rabbit {
    /// It is stopped and started again.
    Restart,
    /// It is killed and started again after so many milliseconds.
    Kill(u64),
    /// It is killed and started again without any data.
    Wipe,
    /// All its connections are closed by the server.
    CloseConnections,
    /// It has a memory alarm for so many milliseconds.
    MemoryAlarm(u64),
    /// It has a disk alarm for so many milliseconds.
    DiskAlarm(u64),
}

/// What happens to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Redis {
    /// It forgets its functions.
    FlushFunctions,
    /// It is stopped and started again.
    Restart,
    /// It is killed and started again after so many milliseconds.
    Kill(u64),
    /// It is killed and comes back without its last so many commands.
    RollBack(usize),
    /// It stands still for so many milliseconds.
    Stop(u64),
    /// It takes no new data for so many milliseconds: its memory is full.
    Full(u64),
}

/// A server that is away for so many milliseconds is so for long: whatever has a deadline has met it.
const LONG_MS: u64 = 10_000;

impl Harm {
    /// Whether it harms the client alone: it may happen when the run is over.
    pub fn is_clients(&self) -> bool {
        matches!(self, Self::KillClient { .. } | Self::StopClient { .. })
    }

    /// Whether it may end the client's process.
    pub fn ends_client(&self) -> bool {
        match self {
            Self::KillClient { .. } => true,
            Self::Point { worker: None, rule, .. } => rule.contains("abort"),
            _ => false,
        }
    }

    /// How often it may make one body run again, among so many workers.
    pub fn repeats(&self, workers: u64) -> u64 {
        match self {
            // What it ran runs again; what it held is computed again, perhaps while it runs. A task
            // runs on its own second message, and behind its input on that one's.
            Self::Kill { .. }
            | Self::Repeat { fresh: true, .. }
            | Self::LoseHost { .. }
            | Self::Leave { .. }
            | Self::Stop { .. }
            | Self::Point { worker: Some(_), .. }
            | Self::Net { worker: Some(_), .. } => 2,
            // A short task carries no claim: a second message for it may start it a second time, and
            // a client that does not know whether it has rung rings again.
            Self::KillClient { .. }
            | Self::StopClient { .. }
            | Self::Point { worker: None, .. }
            | Self::Net { worker: None, .. }
            | Self::DeleteQueues
            | Self::PurgeQueues
            | Self::Repeat { .. } => 1,
            // Every session ends, and everything that was delivered comes again elsewhere.
            Self::KillAll { .. } | Self::Rabbit(_) | Self::Redis(_) => 2 * workers,
        }
    }

    /// Its kind, for a summary.
    pub fn kind(&self) -> String {
        let kind = match self {
            Self::Point { rule, .. } => {
                return rule.split(['@', '(']).next().unwrap_or_default().to_owned();
            }
            Self::Net { link, net, .. } => {
                let net = format!("{net:?}");
                let net = net.split([' ', '(']).next().unwrap_or_default().to_lowercase();
                return format!("{} {net}", format!("{link:?}").to_lowercase());
            }
            Self::Kill { .. } => "worker killed",
            Self::KillAll { .. } => "all workers killed",
            Self::Stop { .. } => "worker stopped",
            Self::LoseHost { .. } => "host lost",
            Self::Leave { .. } => "worker told to go",
            Self::KillClient { .. } => "client killed",
            Self::StopClient { .. } => "client stopped",
            Self::DeleteQueues => "queues deleted",
            Self::PurgeQueues => "messages purged",
            Self::Repeat { fresh: true, .. } => "parcel repeated",
            Self::Repeat { fresh: false, .. } => "stale parcel",
            Self::Rabbit(harm) => match harm {
                Rabbit::Restart => "rabbitmq restarted",
                Rabbit::Kill(_) => "rabbitmq killed",
                Rabbit::Wipe => "rabbitmq wiped",
                Rabbit::CloseConnections => "rabbitmq closed sessions",
                Rabbit::MemoryAlarm(_) => "rabbitmq memory alarm",
                Rabbit::DiskAlarm(_) => "rabbitmq disk alarm",
            },
            Self::Redis(harm) => match harm {
                Redis::FlushFunctions => "redis functions flushed",
                Redis::Restart => "redis restarted",
                Redis::Kill(LONG_MS..) => "redis away for long",
                Redis::Kill(_) => "redis killed",
                Redis::RollBack(_) => "redis rolled back",
                Redis::Stop(_) => "redis stopped",
                Redis::Full(_) => "redis full",
            },
        };
        kind.to_owned()
    }
}
