//! How a task failed, as its client reads it.

use std::error::Error;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{RunId, TaskId};

/// Errors behind one another that are kept: who reads more of them?
const CHAIN_MAX: usize = 64;
/// Bytes of a task's name and of a worker's address, far more than either has.
const NAME_BYTES_MAX: usize = 1 << 10;

/// Why a task has no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TaskErrorKind {
    /// The task returned an error, on its last attempt.
    User,
    /// The task panicked.
    Panic,
    /// One attempt ran longer than the task's time limit.
    Timeout,
    /// It ended the process it ran in, alone, each time it was tried.
    Crashed,
    /// Its arguments do not fit the function, or its result cannot be encoded or is too large.
    Unusable,
    /// The function of this name has other parameters or another result on the workers.
    Signature,
    /// No living worker knows a task of this name, or serves what it needs.
    NoCapableWorker,
    /// It was not started by the time its caller set.
    Expired,
    /// Its result, or one it needs, is lost and could not be computed again.
    DataLost,
    /// It is declared pure, was computed again, and had another result than what was used before.
    NonDeterministic,
    /// The run was cancelled.
    Cancelled,
    /// Its worker had no memory for its result, and none was freed for a while.
    OutOfMemory,
}

impl fmt::Display for TaskErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "failed",
            Self::Panic => "panicked",
            Self::Timeout => "ran out of time",
            Self::Crashed => "crashed",
            Self::Unusable => "could not be called",
            Self::Signature => "is compiled differently on client and worker",
            Self::NoCapableWorker => "cannot be run by any worker",
            Self::Expired => "was not started in time",
            Self::DataLost => "lost its data",
            Self::NonDeterministic => "does not always have the same result",
            Self::Cancelled => "was cancelled",
            Self::OutOfMemory => "ran out of memory",
        })
    }
}

/// The end of a task that has no result: which one, where, on which attempt, and why. Its `source`
/// chain is the chain of the task's own error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// What kind of end it is.
    pub kind: TaskErrorKind,
    /// The task's registered name.
    pub name: String,
    /// The run, as 32 hexadecimal digits.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The data address of the worker that ran it; empty when none did.
    pub worker: String,
    /// The error and those behind it, outermost first.
    pub chain: Vec<String>,
    /// Where a panic happened.
    pub backtrace: Option<String>,
    /// The user's error itself, when its type can be encoded.
    pub encoded: Option<Bytes>,
}

impl TaskError {
    /// The stored form: MessagePack, cut to [`crate::limits::ERROR_BYTES_MAX`].
    pub fn encode(&self) -> Vec<u8> {
        let mut fitting = self.clone();
        // What is left when all texts are cut to nothing must fit too.
        fitting.chain.truncate(CHAIN_MAX);
        fitting.name = head(&self.name, NAME_BYTES_MAX);
        fitting.worker = head(&self.worker, NAME_BYTES_MAX);
        let mut limit = crate::limits::ERROR_BYTES_MAX;
        loop {
            let bytes = rmp_serde::to_vec_named(&fitting).unwrap_or_default();
            if bytes.len() <= crate::limits::ERROR_BYTES_MAX {
                return bytes;
            }
            limit /= 2;
            fitting.encoded = None;
            fitting.backtrace = fitting.backtrace.as_deref().map(|text| head(text, limit));
            let each = limit / fitting.chain.len().max(1);
            fitting.chain = fitting.chain.iter().map(|text| head(text, each)).collect();
        }
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }
}

/// The first `limit` bytes of a text, cut between characters.
fn head(text: &str, limit: usize) -> String {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} ({}) {}", self.name, self.task, self.kind)?;
        if self.attempt > 1 {
            write!(f, " on attempt {}", self.attempt)?;
        }
        if !self.worker.is_empty() {
            write!(f, " on worker {}", self.worker)?;
        }
        match self.chain.split_first() {
            None => Ok(()),
            Some((first, behind)) => {
                write!(f, ": {first}")?;
                behind.iter().try_for_each(|cause| write!(f, ": {cause}"))
            }
        }
    }
}

impl Error for TaskError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(message: String) -> TaskError {
        TaskError {
            kind: TaskErrorKind::User,
            name: "etl::load".to_owned(),
            run: RunId::new(1, 2),
            task: TaskId::new(0, 3),
            attempt: 2,
            worker: "10.0.0.1:4000".to_owned(),
            chain: vec![message, "no such file".to_owned()],
            backtrace: None,
            encoded: None,
        }
    }

    #[test]
    fn a_message_names_task_attempt_worker_and_cause() {
        let text = error("cannot read day.csv".to_owned()).to_string();
        assert_eq!(
            text,
            "task etl::load (0:3) failed on attempt 2 on worker 10.0.0.1:4000: \
             cannot read day.csv: no such file"
        );
    }

    #[test]
    fn an_endless_chain_is_cut_and_still_reads() {
        let endless = TaskError { chain: vec![String::new(); 100_000], ..error(String::new()) };
        let stored = TaskError { name: "x".repeat(100_000), ..endless }.encode();
        assert!(stored.len() <= crate::limits::ERROR_BYTES_MAX);
        assert_eq!(TaskError::decode(&stored).unwrap().chain.len(), CHAIN_MAX);
    }

    #[test]
    fn a_huge_message_is_cut_and_still_reads() {
        let stored = error("ä".repeat(100_000)).encode();
        assert!(stored.len() <= crate::limits::ERROR_BYTES_MAX);
        let read = TaskError::decode(&stored).unwrap();
        assert!(read.chain[0].starts_with("ää"));
    }
}
