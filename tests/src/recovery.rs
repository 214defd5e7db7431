//! Tasks that write down when and where they run, and what those lines tell: how long after a fault
//! a task was started again, and how many were started twice.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bolthole::{Ctx, task};
use bolthole_broker::clock;

use crate::cluster::until;

/// Between the numbers of tasks and of those that have released them.
pub const PASSED: u64 = 1_000_000;

/// Lasts so many milliseconds, and notes its start and its end in the ledger.
#[task]
pub fn hold(number: u64, millis: u64, ledger: &str, ctx: &Ctx) -> u64 {
    note(ledger, "start", number);
    if ctx.pause(Duration::from_millis(millis)) {
        note(ledger, "end", number);
    }
    number
}

/// Hands its number on and takes no time; noted as [`PASSED`] more.
#[task]
pub fn pass(number: u64, ledger: &str) -> u64 {
    note(ledger, "start", PASSED + number);
    note(ledger, "end", PASSED + number);
    number
}

fn note(ledger: &str, what: &str, number: u64) {
    let line = format!("{what} {number} {} {}\n", process::id(), clock::unix_ms());
    let file = File::options().create(true).append(true).open(ledger);
    // One write of a short line is not torn by those of other processes.
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    assert!(written.is_ok(), "{ledger}: {written:?}");
}

/// One start of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The process that ran it.
    pub process: u32,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

/// What the tasks of a cluster wrote down.
#[derive(Debug, Clone)]
pub struct Ledger(PathBuf);

impl Ledger {
    /// A ledger in this folder.
    pub fn new(folder: &Path) -> Self {
        Self(folder.join("ledger"))
    }

    /// What tasks are given.
    pub fn path(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    /// The starts of each task, in order.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn starts(&self) -> Result<BTreeMap<u64, Vec<Start>>> {
        let text = if self.0.exists() { fs::read_to_string(&self.0)? } else { String::new() };
        let mut starts: BTreeMap<u64, Vec<Start>> = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("start")) {
            let mut words = line.split(' ').skip(1).map(str::parse::<u64>);
            let mut word = || words.next().context("a short line").and_then(|word| Ok(word?));
            let (number, process, at_ms) = (word()?, word()?, word()?);
            let start = Start { process: u32::try_from(process)?, at_ms };
            starts.entry(number).or_default().push(start);
        }
        Ok(starts)
    }

    /// Starts beyond the first of each task.
    ///
    /// # Errors
    /// As for [`Ledger::starts`].
    pub fn duplicates(&self) -> Result<usize> {
        Ok(self.starts()?.values().map(|starts| starts.len() - 1).sum())
    }

    /// Waits until so many tasks were started.
    ///
    /// # Errors
    /// When they are not.
    pub async fn started(&self, tasks: usize) -> Result<()> {
        until("that many tasks were started", async || {
            Ok((self.starts()?.len() >= tasks).then_some(()))
        })
        .await
    }
}
