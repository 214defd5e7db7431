//! Whether living workers can run what is about to be staged. A task that none of them knows, or
//! whose signature has drifted, is told to whoever submits it; workers that are handed one all the
//! same keep it waiting.

use std::collections::HashSet;

use bolthole_broker::store::WorkerRecord;
use bolthole_broker::task::{RELAY, TaskClass};

use crate::core::{Core, lock};
use crate::error::{Error, ErrorKind, Result};

/// Tasks, with signature and queue, for which this client has seen a capable worker.
pub(crate) type Capable = HashSet<[String; 3]>;

impl Core {
    /// Those of the classes for which no capable worker has been seen yet.
    pub(crate) fn unchecked<'a>(
        &self,
        classes: impl IntoIterator<Item = &'a TaskClass>,
    ) -> Vec<TaskClass> {
        let capable = lock(&self.capable);
        let unchecked = classes.into_iter().filter(|class| !capable.contains(&key(class)));
        unchecked.filter(|class| class.task != RELAY).cloned().collect()
    }

    /// Refuses classes that no living worker can run although some serve their queues. Where nobody
    /// serves, there is nothing to say yet: workers may be on their way.
    pub(crate) async fn check_capable(&self, classes: &[TaskClass]) -> Result<()> {
        if classes.is_empty() {
            return Ok(());
        }
        let workers = self.persist_in(|| self.store.workers()).await?;
        for class in classes {
            let queue = &class.options.queue;
            let serving: Vec<&WorkerRecord> = workers
                .iter()
                .map(|(_, record)| record)
                .filter(|record| record.queues.contains(queue))
                .collect();
            if serving.is_empty() {
                tracing::warn!(task = %class.task, %queue, "no worker serves the queue yet");
                continue;
            }
            if serving.iter().any(|record| signature(record, class) == Some(&class.signature)) {
                lock(&self.capable).insert(key(class));
                continue;
            }
            return Err(Error::new(ErrorKind::NoCapableWorker, incapable(class, &serving)));
        }
        Ok(())
    }
}

fn key(class: &TaskClass) -> [String; 3] {
    [class.task.clone(), class.signature.clone(), class.options.queue.clone()]
}

/// The signature of the worker's task of this name.
fn signature<'a>(record: &'a WorkerRecord, class: &TaskClass) -> Option<&'a String> {
    let named = record.tasks.iter().find(|(name, _)| *name == class.task);
    named.map(|(_, signature)| signature)
}

/// What to do about a task that none of these workers can run.
fn incapable(class: &TaskClass, serving: &[&WorkerRecord]) -> String {
    let (task, queue) = (&class.task, &class.options.queue);
    let drifted = serving.iter().find_map(|record| Some((signature(record, class)?, record)));
    match drifted {
        Some((signature, record)) => format!(
            "task {task:?} is {} for this client and {signature} for the worker at {}: build both \
             from the same source",
            class.signature, record.address
        ),
        None => format!(
            "no worker has the task {task:?} (workers that serve queue {queue:?}: {}): link the \
             crate that defines it into the worker",
            serving.len()
        ),
    }
}
