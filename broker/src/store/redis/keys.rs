//! Names of keys, and what a name says. All keys of a run share a hash tag, so that they live in one
//! slot of a cluster.

use crate::id::{RunId, WorkerIndex};

/// The namespace's prefix of every key: empty, or ending in a colon.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose<'a> {
    /// A part of a run.
    Run(RunId, Part),
    /// To find a run by this name.
    Name(&'a str),
    /// What workers say of themselves, their permits, and the list of runs.
    Bookkeeping,
}

/// The parts of a run, as far as whoever counts bytes tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Header,
    Columns,
    Descriptors,
    Results,
    Blobs,
    Events,
    /// Words of its client, segments, releases, leases, attempts, its lock.
    Rest,
}

impl Part {
    /// The part that a key is of, by what follows the run in its name.
    fn of(rest: &str) -> Option<Self> {
        let (kind, number) = rest.split_once(':').map_or((rest, false), |(kind, _)| (kind, true));
        Some(match (kind, number) {
            ("h", false) => Self::Header,
            ("a", true) => Self::Columns,
            ("d", true) => Self::Descriptors,
            ("r", true) => Self::Results,
            ("b", true) | ("bs", false) => Self::Blobs,
            ("e", false) => Self::Events,
            ("x", true) | ("m" | "s" | "o" | "l" | "q" | "f" | "c" | "k", false) => Self::Rest,
            _ => return None,
        })
    }
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

    /// Who may run a task that runs only so often at once, and how often.
    pub(super) fn permits(&self, task: &str) -> String {
        format!("{}bh:p:{task}", self.prefix)
    }

    /// What a key is for; `None` for one that no version of this program writes here.
    pub(super) fn purpose<'a>(&self, key: &'a str) -> Option<Purpose<'a>> {
        let rest = key.strip_prefix(&self.prefix)?.strip_prefix("bh:")?;
        if let Some((run, part)) = rest.strip_prefix('{').and_then(|rest| rest.split_once("}:")) {
            return Some(Purpose::Run(run.parse().ok()?, Part::of(part)?));
        }
        if let Some(name) = rest.strip_prefix("n:") {
            return Some(Purpose::Name(name));
        }
        let single = matches!(rest, "runs" | "workers" | "wd" | "audit");
        let ours = single || rest.starts_with("w:") || rest.starts_with("p:");
        ours.then_some(Purpose::Bookkeeping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_says_what_it_is_for() {
        let run = RunId::new(3, 4);
        for namespace in ["", "a:bh:n:b"] {
            let keys = Keys::new(namespace);
            let of = |part| Some(Purpose::Run(run, part));
            assert_eq!(keys.purpose(&keys.header(run)), of(Part::Header));
            assert_eq!(keys.purpose(&keys.arena(run, 5)), of(Part::Columns));
            assert_eq!(keys.purpose(&keys.chunk(run, 5, 6)), of(Part::Descriptors));
            assert_eq!(keys.purpose(&keys.of(run, "bs")), of(Part::Blobs));
            assert_eq!(keys.purpose(&keys.name("a:b")), Some(Purpose::Name("a:b")));
            let worker = keys.worker(WorkerIndex::new(7));
            for key in [keys.runs(), keys.workers(), keys.deaths(), keys.permits("a:b"), worker] {
                assert_eq!(keys.purpose(&key), Some(Purpose::Bookkeeping), "{key}");
            }
            for strange in ["bh:", "bh:strange", "bh:{1}:h", "other:runs"] {
                assert_eq!(keys.purpose(&format!("{namespace}:{strange}")), None, "{strange}");
            }
            for strange in ["", "a", "h:1", "strange"] {
                assert_eq!(keys.purpose(&keys.of(run, strange)), None, "{strange}");
            }
        }
    }
}
