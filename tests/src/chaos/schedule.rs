//! What is played: a graph, workers, and faults with their triggers. A value that follows from a
//! seed, and a file that a person can read, change and play again.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use bolthole::FailurePolicy;
use serde::{Deserialize, Serialize};

use crate::dag::Dag;

/// One play.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The seed it was drawn from.
    pub seed: u64,
    /// Slots of each worker.
    pub workers: Vec<usize>,
    /// What a failed task means for the rest.
    pub policy: FailurePolicy,
    /// Milliseconds that every task lasts at least, so that faults find something under way.
    pub hold_ms: u64,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// The graph.
    pub dag: Dag,
}

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

impl Schedule {
    /// Whether it needs servers that nobody else uses.
    pub fn harms_servers(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault.harm, Harm::Rabbit(_) | Harm::Redis(_)))
    }

    /// How often a body may be repeated because of its faults, at the most: see [`Harm::repeats`].
    pub fn repeats(&self) -> u64 {
        self.faults.iter().map(|fault| fault.harm.repeats(self.workers.len() as u64)).sum()
    }

    /// Reads a file that [`Schedule::save`] has written.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Writes the schedule to a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        fs::write(path, serde_json::to_string(self)? + "\n")?;
        Ok(())
    }
}

impl Harm {
    /// How often it may make one body run again, among so many workers.
    pub fn repeats(&self, workers: u64) -> u64 {
        match self {
            // What it ran runs again; what it held is computed again, perhaps while it runs.
            Self::Kill { .. } | Self::Leave { .. } | Self::Stop { .. } => 2,
            Self::KillClient { .. } | Self::StopClient { .. } => 0,
            // A short task carries no claim: a second message for it may start it a second time.
            Self::DeleteQueues | Self::PurgeQueues | Self::Repeat { .. } => 1,
            // Every session ends, and everything that was delivered comes again elsewhere.
            Self::KillAll { .. } | Self::Rabbit(_) | Self::Redis(_) => 2 * workers,
        }
    }

    /// Its kind, for a summary.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "worker killed",
            Self::KillAll { .. } => "all workers killed",
            Self::Stop { .. } => "worker stopped",
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
                Redis::Kill(_) => "redis killed",
                Redis::RollBack(_) => "redis rolled back",
                Redis::Stop(_) => "redis stopped",
                Redis::Full(_) => "redis full",
            },
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tasks, hold) = (self.dag.nodes.len(), self.hold_ms);
        write!(f, "seed {}: {tasks} tasks of {hold} ms, slots {:?}", self.seed, self.workers)?;
        for Fault { when, harm } in &self.faults {
            write!(f, "; {when:?} {harm:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::draw::draw;

    #[test]
    fn a_schedule_is_the_same_after_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("schedule.json");
        for seed in 0..50 {
            let schedule = draw(seed);
            schedule.save(&path).unwrap();
            assert_eq!(Schedule::load(&path).unwrap(), schedule);
        }
    }

    #[test]
    fn a_file_that_is_no_schedule_says_which_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.json");
        fs::write(&path, "{}").unwrap();
        assert!(format!("{:#}", Schedule::load(&path).unwrap_err()).contains("other.json"));
    }
}
