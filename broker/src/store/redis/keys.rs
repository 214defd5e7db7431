//! Names of keys. All keys of a run share a hash tag, so that they live in one slot of a cluster.

use crate::id::{RunId, WorkerIndex};

/// The namespace's prefix of every key: empty, or ending in a colon.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(namespace: &str) -> Self {
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}:") };
        Self { prefix }
    }

    /// What all keys begin with.
    pub(super) fn all(&self) -> String {
        format!("{}bh:", self.prefix)
    }

    /// What all keys of a run begin with.
    pub(super) fn run(&self, run: RunId) -> String {
        format!("{}bh:{{{run}}}:", self.prefix)
    }

    /// The run's header: the key that every function is called with.
    pub(super) fn header(&self, run: RunId) -> String {
        self.run(run) + "h"
    }

    /// A key of a run.
    pub(super) fn of(&self, run: RunId, rest: &str) -> String {
        self.run(run) + rest
    }

    /// A segment's columns.
    pub(super) fn arena(&self, run: RunId, segment: u32) -> String {
        format!("{}a:{segment}", self.run(run))
    }

    /// A descriptor chunk.
    pub(super) fn chunk(&self, run: RunId, segment: u32, number: u32) -> String {
        format!("{}d:{segment}:{number}", self.run(run))
    }

    /// Every run that is not purged, by its id; the score is its age.
    pub(super) fn runs(&self) -> String {
        format!("{}bh:runs", self.prefix)
    }

    /// The audit: a stream, there while every change is to be written down.
    #[cfg(feature = "failpoints")]
    pub(super) fn audit(&self) -> String {
        format!("{}bh:audit", self.prefix)
    }

    /// A run's name.
    pub(super) fn name(&self, name: &str) -> String {
        format!("{}bh:n:{name}", self.prefix)
    }

    /// The indexes of workers, some of them dead.
    pub(super) fn workers(&self) -> String {
        format!("{}bh:workers", self.prefix)
    }

    /// The indexes of workers that went without a farewell; the score is when it was noticed.
    pub(super) fn deaths(&self) -> String {
        format!("{}bh:wd", self.prefix)
    }

    /// A worker's record, gone when it is not renewed.
    pub(super) fn worker(&self, index: WorkerIndex) -> String {
        format!("{}bh:w:{:06x}", self.prefix, index.get())
    }
}
