//! What bodies of tasks write down: that they have begun, on which inputs, and how they ended. Each
//! line is one write to a file of the process, so that whatever kills the process, what had happened
//! before is there to be read.
//!
//! ```text
//! begin SEQUENCE MILLISECONDS RUN TASK ATTEMPT BODY/ID INPUTS
//! end SEQUENCE MILLISECONDS done RESULT | failed | forwarded
//! ```
//! `INPUTS` and `RESULT` are digests; the file's name ends in the id of the process.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use bolthole::{Ctx, RunId, TaskId};
use bolthole_broker::clock;

use crate::dag;

/// Header of a run: the folder in which the processes that run its tasks keep their ledgers.
pub const LEDGER: &str = "ledger";

/// A body that has begun. Dropped in a panic, it has failed; dropped otherwise, it was given up.
#[derive(Debug)]
pub struct Entry {
    /// Of a run without a ledger, none.
    file: Option<File>,
    sequence: u64,
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// With a text of this digest.
    Done(u64),
    /// With an error or a panic.
    Failed,
    /// By returning a task.
    Forwarded,
}

/// What one call was about and how it ended, wherever and however often it was made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Act {
    /// The body and the id that the graph gives the task.
    pub label: String,
    /// Of the inputs that the body saw.
    pub inputs: u64,
    /// How it ended; `None` if it did not.
    pub outcome: Option<Outcome>,
}

/// One execution of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// The id of the process.
    pub process: u32,
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// The run, as its id reads.
    pub run: String,
    /// The task, as its id reads.
    pub task: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// What it did.
    pub act: Act,
}

/// Writes down that a body has begun on inputs of this digest.
pub fn begin(ctx: &Ctx, body: &str, id: u64, inputs: u64) -> Entry {
    static SEQUENCE: AtomicU64 = AtomicU64::new(0);
    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    let file = ctx.header(LEDGER).and_then(|folder| open(Path::new(folder)));
    let (run, task, attempt): (RunId, TaskId, u32) = (ctx.run(), ctx.task(), ctx.attempt());
    let entry = Entry { file, sequence };
    entry.write("begin", &format!("{run} {task} {attempt} {body}/{id} {inputs:016x}"));
    entry
}

fn open(folder: &Path) -> Option<File> {
    let path = folder.join(format!("ledger.{}", std::process::id()));
    let file = File::options().create(true).append(true).open(&path);
    if let Err(error) = &file {
        tracing::error!(path = %path.display(), %error, "the ledger cannot be kept");
    }
    file.ok()
}

impl Entry {
    /// The body has this result.
    pub fn done(mut self, result: String) -> String {
        self.write("end", &format!("done {:016x}", dag::digest(&result)));
        self.file = None;
        result
    }

    /// The body returns this error.
    pub fn failed<E>(mut self, error: E) -> E {
        self.write("end", "failed");
        self.file = None;
        error
    }

    /// The body returns this task.
    pub fn forwarded<T>(mut self, task: T) -> T {
        self.write("end", "forwarded");
        self.file = None;
        task
    }

    fn write(&self, what: &str, rest: &str) {
        let Some(mut file) = self.file.as_ref() else { return };
        let line = format!("{what} {} {} {rest}\n", self.sequence, clock::unix_ms());
        // One write of a short line is not torn by those of other threads.
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::error!(%error, "the ledger cannot be kept");
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.write("end", "failed");
        }
    }
}

/// Everything in the ledgers of a folder, by process, each in order.
///
/// # Errors
/// When a ledger cannot be read, or has a line that is none.
pub fn read(folder: &Path) -> anyhow::Result<Vec<Execution>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(process) = name.strip_prefix("ledger.") else { continue };
        let text = fs::read_to_string(&path)?;
        let read = parse(&text, process.parse().context("a ledger without a process")?);
        all.extend(read.with_context(|| name)?);
    }
    all.sort_by_key(|execution| execution.began_ms);
    Ok(all)
}

fn parse(text: &str, process: u32) -> anyhow::Result<Vec<Execution>> {
    let mut all: Vec<Execution> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let bad = || format!("no line of a ledger: {line:?}");
        match words[..] {
            ["begin", sequence, began, run, task, attempt, label, inputs] => {
                places.insert(sequence.parse().with_context(bad)?, all.len());
                all.push(Execution {
                    process,
                    began_ms: began.parse().with_context(bad)?,
                    ended_ms: None,
                    run: run.to_owned(),
                    task: task.to_owned(),
                    attempt: attempt.parse().with_context(bad)?,
                    act: Act {
                        label: label.to_owned(),
                        inputs: u64::from_str_radix(inputs, 16).with_context(bad)?,
                        outcome: None,
                    },
                });
            }
            ["end", sequence, ended, ref outcome @ ..] => {
                let sequence: u64 = sequence.parse().with_context(bad)?;
                let outcome = match outcome {
                    ["done", digest] => {
                        Outcome::Done(u64::from_str_radix(digest, 16).with_context(bad)?)
                    }
                    ["failed"] => Outcome::Failed,
                    ["forwarded"] => Outcome::Forwarded,
                    _ => anyhow::bail!(bad()),
                };
                let place = *places.get(&sequence).with_context(bad)?;
                all[place].act.outcome = Some(outcome);
                all[place].ended_ms = Some(ended.parse().with_context(bad)?);
            }
            _ => anyhow::bail!(bad()),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bolthole::capture::capture;
    use bolthole::delayed::AnyDelayed;
    use bolthole::testing::Sequential;

    #[test]
    fn every_execution_of_a_graph_is_written_down_with_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let dag = dag::Dag::random(&mut dag::Random::new(7));
        let calls = dag.calls();
        let outputs: Vec<&dyn AnyDelayed> = calls.iter().map(|c| c as &dyn AnyDelayed).collect();
        let header = folder.path().to_string_lossy();
        let ran = Sequential::new().header(LEDGER, header).run(&capture(&outputs).unwrap());
        assert_eq!(ran.len(), calls.len());
        let read = read(folder.path()).unwrap();
        assert!(read.len() >= dag.nodes.len(), "{} of {}", read.len(), dag.nodes.len());
        assert!(read.iter().all(|execution| execution.act.outcome.is_some()));
    }

    #[test]
    fn a_body_that_was_killed_has_no_end() {
        let line = "begin 0 5 ab 0:1 1 plain/3 00000000000000ff\n";
        let read = parse(line, 9).unwrap();
        assert_eq!((read[0].act.outcome, read[0].act.inputs, read[0].process), (None, 255, 9));
        let both = format!("{line}end 0 6 done 0000000000000001\n");
        assert_eq!(parse(&both, 9).unwrap()[0].act.outcome, Some(Outcome::Done(1)));
        assert!(parse("end 0 6 failed\n", 9).is_err(), "an end without a beginning");
    }
}
