//! What is played: a graph, workers and faults. A value that follows from a seed, and a file that a
//! person can read, change and play again.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use bolthole::FailurePolicy;
use serde::{Deserialize, Serialize};

use super::fault::{Fault, Harm};
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
    /// What the client does with the graph.
    #[serde(default)]
    pub manner: Manner,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// The graph.
    pub dag: Dag,
}

/// What a client does with a graph.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manner {
    /// Submits it whole and reads one output after the other.
    #[default]
    InOrder,
    /// Submits it whole and reads its outputs as they come.
    AsCompleted,
    /// Submits its tasks one by one, each on handles of earlier ones.
    OneByOne,
    /// Submits it whole and cancels the run when so many of its tasks have finished.
    Cancel(u64),
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

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tasks, hold) = (self.dag.nodes.len(), self.hold_ms);
        write!(f, "seed {}: {tasks} tasks of {hold} ms, slots {:?}", self.seed, self.workers)?;
        write!(f, ", {:?}", self.manner)?;
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
