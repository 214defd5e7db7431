//! What happened in a simulation.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use bolthole_broker::id::{RunId, TaskId};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Not yet, or cancelled on its way.
    No,
    /// Its body came to its end, whatever that was.
    Yes,
    /// Its worker crashed.
    Crashed,
}

/// One attempt at a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// The task's registered name.
    pub name: String,
    /// Its run.
    pub run: RunId,
    /// Its id there.
    pub task: TaskId,
    /// Which worker ran it: 1 is the first that was started.
    pub worker: u32,
    /// Which attempt it was, as the task sees it: 1 for the first, and again after a fault.
    pub attempt: u32,
    /// Which computation of the result it was; 0 unless an earlier result was lost.
    pub generation: u8,
    /// Drawn for the attempt.
    pub nonce: u64,
    /// When it began, in virtual time since the start.
    pub began: Duration,
    /// How it ended.
    pub ended: Ended,
}

/// What happened in a simulation.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The seed that makes all of it happen again.
    pub seed: u64,
    /// Every attempt, in the order in which they began.
    pub executions: Vec<Execution>,
    /// How often each kind of fault came to pass.
    pub faults: BTreeMap<&'static str, u64>,
    /// The virtual time it took.
    pub elapsed: Duration,
    /// A hash of every step: equal for equal seeds and equal programs.
    pub trace: u64,
    /// Every step, when they were kept.
    pub history: Vec<String>,
}

impl Report {
    /// How many attempts there were at tasks of this name, with or without the path of its module.
    pub fn attempts(&self, task: &str) -> usize {
        self.executions.iter().filter(|execution| execution.is_of(task)).count()
    }

    /// How many workers crashed.
    pub fn crashes(&self) -> u64 {
        self.faults.get("crash").copied().unwrap_or(0)
    }
}

impl Execution {
    fn is_of(&self, task: &str) -> bool {
        let module = self.name.strip_suffix(task);
        module.is_some_and(|module| module.is_empty() || module.ends_with("::"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, executions, faults, elapsed, trace, .. } = self;
        write!(f, "seed {seed}: {} attempts in {elapsed:?}", executions.len())?;
        for (fault, count) in faults {
            write!(f, ", {fault} {count}")?;
        }
        write!(f, "; trace {trace:016x}")
    }
}

/// Takes down every step.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) report: Report,
    keep: bool,
    hash: Hash,
}

impl Log {
    pub(super) fn new(seed: u64, keep: bool) -> Self {
        let report = Report { seed, ..Report::default() };
        Self { report, keep, hash: Hash(0xcbf2_9ce4_8422_2325) }
    }

    /// A step at this time.
    pub(super) fn step(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        // Writing into a hash cannot fail.
        let _ = writeln!(self.hash, "{} {what}", at.as_millis());
        self.report.trace = self.hash.0;
        if self.keep {
            self.report.history.push(format!("{:>10.3} {what}", at.as_secs_f64()));
        }
    }

    /// A fault has come to pass.
    pub(super) fn fault(&mut self, at: Duration, name: &'static str) {
        *self.report.faults.entry(name).or_insert(0) += 1;
        self.step(at, format_args!("fault: {name}"));
    }
}

/// FNV-1a: says whether two histories are the same, not who forged one.
#[derive(Debug, Clone, Copy)]
struct Hash(u64);

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}
