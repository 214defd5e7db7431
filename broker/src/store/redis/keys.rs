//! Names of keys, and what a name says. All keys of a run share a hash tag, so that they live in one
//! slot of a cluster.
//!
//! In a cluster the tag is not the run but its *bucket*, one of 256, and each bucket has a list of its
//! runs under the same tag: a server that loses its data, or its last second, loses runs together with
//! their places on the list, as a server by itself does. All that is said of workers has one tag, so
//! that whoever can renew its record can read those of the others.

use crate::id::{RunId, WorkerIndex};

/// The namespace's prefix of every key: empty, or ending in a colon.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
    /// Whether slots matter.
    cluster: bool,
}

/// The tag of the keys of workers in a cluster. No bucket has one digit.
const WORKERS_TAG: &str = "{w}";

/// The bucket of a run: its last 8 bits, which are random.
fn bucket(run: RunId) -> u8 {
    run.to_bytes()[15]
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
    pub(super) fn new(namespace: &str, cluster: bool) -> Self {
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}:") };
        Self { prefix, cluster }
    }

    /// What all keys begin with.
    pub(super) fn all(&self) -> String {
        format!("{}bh:", self.prefix)
    }

    /// What all keys of a run begin with.
    pub(super) fn run(&self, run: RunId) -> String {
        let prefix = &self.prefix;
        if self.cluster {
            format!("{prefix}bh:{{{:02x}}}{run}:", bucket(run))
        } else {
            format!("{prefix}bh:{{{run}}}:")
        }
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

    /// The list that has this run until it is purged; the score is when it was listed.
    pub(super) fn runs(&self, run: RunId) -> String {
        self.list(bucket(run))
    }

    /// All lists of runs.
    pub(super) fn lists(&self) -> Vec<String> {
        let last = if self.cluster { u8::MAX } else { 0 };
        (0..=last).map(|bucket| self.list(bucket)).collect()
    }

    fn list(&self, bucket: u8) -> String {
        if self.cluster {
            format!("{}bh:{{{bucket:02x}}}runs", self.prefix)
        } else {
            format!("{}bh:runs", self.prefix)
        }
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

    fn of_workers(&self, rest: &str) -> String {
        format!("{}bh:{}{rest}", self.prefix, if self.cluster { WORKERS_TAG } else { "" })
    }

    /// The indexes of workers, some of them dead.
    pub(super) fn workers(&self) -> String {
        self.of_workers("workers")
    }

    /// The indexes of workers that went without a farewell; the score is when it was noticed.
    pub(super) fn deaths(&self) -> String {
        self.of_workers("wd")
    }

    /// A worker's record, gone when it is not renewed.
    pub(super) fn worker(&self, index: WorkerIndex) -> String {
        self.of_workers(&format!("w:{:06x}", index.get()))
    }

    /// Who may run a task that runs only so often at once, and how often.
    pub(super) fn permits(&self, task: &str) -> String {
        self.of_workers(&format!("p:{task}"))
    }

    /// That a worker could run more tasks of a queue.
    pub(super) fn sought(&self, queue: &str) -> String {
        self.of_workers(&format!("i:{queue}"))
    }

    /// What a key is for; `None` for one that no version of this program writes here.
    pub(super) fn purpose<'a>(&self, key: &'a str) -> Option<Purpose<'a>> {
        let rest = key.strip_prefix(&self.prefix)?.strip_prefix("bh:")?;
        if let Some(name) = rest.strip_prefix("n:") {
            return Some(Purpose::Name(name));
        }
        if self.cluster {
            return self.purpose_of_tagged(key, rest);
        }
        if let Some((run, part)) = rest.strip_prefix('{').and_then(|rest| rest.split_once("}:")) {
            return Some(Purpose::Run(run.parse().ok()?, Part::of(part)?));
        }
        let ours = matches!(rest, "runs" | "audit") || says_of_workers(rest);
        ours.then_some(Purpose::Bookkeeping)
    }

    fn purpose_of_tagged<'a>(&self, key: &str, rest: &'a str) -> Option<Purpose<'a>> {
        if let Some(rest) = rest.strip_prefix(WORKERS_TAG) {
            return says_of_workers(rest).then_some(Purpose::Bookkeeping);
        }
        let (bucket, rest) = rest.strip_prefix('{')?.split_once('}')?;
        if rest == "runs" {
            let bucket = u8::from_str_radix(bucket, 16).ok()?;
            return (self.list(bucket) == key).then_some(Purpose::Bookkeeping);
        }
        let (run, part) = rest.split_once(':')?;
        let run = run.parse().ok()?;
        key.starts_with(&self.run(run)).then_some(Purpose::Run(run, Part::of(part)?))
    }
}

fn says_of_workers(rest: &str) -> bool {
    let of_one = ["w:", "p:", "i:"].iter().any(|kind| rest.starts_with(kind));
    of_one || matches!(rest, "workers" | "wd")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::slots::slot;
    use super::*;

    #[test]
    fn every_key_says_what_it_is_for() {
        let run = RunId::new(3, 4);
        for (namespace, cluster) in
            [("", false), ("a:bh:n:b", false), ("", true), ("a:bh:n:b", true)]
        {
            let keys = Keys::new(namespace, cluster);
            let of = |part| Some(Purpose::Run(run, part));
            assert_eq!(keys.purpose(&keys.header(run)), of(Part::Header));
            assert_eq!(keys.purpose(&keys.arena(run, 5)), of(Part::Columns));
            assert_eq!(keys.purpose(&keys.chunk(run, 5, 6)), of(Part::Descriptors));
            assert_eq!(keys.purpose(&keys.of(run, "bs")), of(Part::Blobs));
            assert_eq!(keys.purpose(&keys.name("a:b")), Some(Purpose::Name("a:b")));
            let worker = keys.worker(WorkerIndex::new(7));
            let lists = keys.lists();
            assert!(lists.contains(&keys.runs(run)));
            let (permits, sought) = (keys.permits("a:b"), keys.sought("a:b"));
            for key in [keys.workers(), keys.deaths(), permits, sought, worker].iter().chain(&lists)
            {
                assert_eq!(keys.purpose(key), Some(Purpose::Bookkeeping), "{key}");
            }
            for strange in ["bh:", "bh:strange", "bh:{1}:h", "other:runs", "bh:{w}h", "bh:{xy}runs"]
            {
                assert_eq!(keys.purpose(&format!("{namespace}:{strange}")), None, "{strange}");
            }
            for strange in ["", "a", "h:1", "strange"] {
                assert_eq!(keys.purpose(&keys.of(run, strange)), None, "{strange}");
            }
            let other = Keys::new(namespace, !cluster);
            assert_eq!(other.purpose(&keys.header(run)), None, "one key is not two");
        }
    }

    #[test]
    fn in_a_cluster_a_run_and_its_list_share_a_slot_and_so_do_all_workers() {
        let keys = Keys::new("ns", true);
        let mut slots = BTreeSet::new();
        for number in 0..=255 {
            let run = RunId::new(3, number);
            let of = slot(keys.header(run).as_bytes());
            for key in [keys.runs(run), keys.arena(run, 5), keys.of(run, "e")] {
                assert_eq!(slot(key.as_bytes()), of, "{key}");
            }
            slots.insert(of);
        }
        assert!(slots.len() > 250, "runs are spread");
        let workers = slot(keys.workers().as_bytes());
        for key in [keys.deaths(), keys.worker(WorkerIndex::new(7))] {
            assert_eq!(slot(key.as_bytes()), workers, "{key}");
        }
    }
}
