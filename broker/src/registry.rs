//! The tasks that this program can run. `#[task]` registers each function before `main` starts;
//! names resolve here and nowhere else, so nothing that is not compiled in can ever run.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

use crate::call::{Call, Outcome};
use crate::task::{TaskKind, TaskOptions};

/// A future that a worker drives on its runtime for user code.
pub type BodyFuture = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// How a task's body is called.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// `fn`: on a slot's thread.
    Sync(fn(&Call) -> Outcome),
    /// `async fn`: on the worker's runtime for user code.
    Async(fn(Call) -> BodyFuture),
}

/// One registered task.
#[derive(Debug)]
pub struct TaskEntry {
    /// Its name in every message, `module::path::function` unless the attribute names it.
    pub name: &'static str,
    /// The types that travel, such as `(Day, Vec<String>) -> Table`: without names, borrows, errors
    /// and module paths, which may change while workers of both builds run.
    pub signature: &'static str,
    /// Its kind.
    pub kind: TaskKind,
    /// The options of the attribute.
    pub options: fn() -> TaskOptions,
    /// Its body.
    pub body: Body,
    /// Where it is written.
    pub file: &'static str,
    /// The line there.
    pub line: u32,
}

inventory::collect!(&'static TaskEntry);

/// A name stands for two functions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "two tasks are named {name:?}: at {first} and at {second}; give one of them another name with \
     #[task(name = \"..\")]"
)]
pub struct DuplicateTask {
    /// The name.
    pub name: &'static str,
    /// `file:line` of the one.
    pub first: String,
    /// `file:line` of the other.
    pub second: String,
}

/// Tasks by name.
#[derive(Debug, Default, Clone)]
pub struct Registry {
    tasks: HashMap<&'static str, &'static TaskEntry>,
}

impl Registry {
    /// Every task linked into this program.
    pub fn linked() -> Result<Self, DuplicateTask> {
        let mut registry = Self::default();
        for entry in inventory::iter::<&'static TaskEntry> {
            registry.add(entry)?;
        }
        Ok(registry)
    }

    /// Adds one task.
    pub fn add(&mut self, entry: &'static TaskEntry) -> Result<(), DuplicateTask> {
        match self.tasks.insert(entry.name, entry) {
            Some(other) if !std::ptr::eq(other, entry) => Err(DuplicateTask {
                name: entry.name,
                first: format!("{}:{}", other.file, other.line),
                second: format!("{}:{}", entry.file, entry.line),
            }),
            _ => Ok(()),
        }
    }

    /// The task of this name.
    pub fn get(&self, name: &str) -> Option<&'static TaskEntry> {
        self.tasks.get(name).copied()
    }

    /// All names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.tasks.keys().copied()
    }
}
