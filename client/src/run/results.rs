//! Waiting for results and reading them.

use bolthole_broker::id::TaskId;
use bolthole_broker::run::Reason;
use bolthole_broker::state::TaskState;
use bytes::Bytes;

use super::RunInner;
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{Found, gone};
use crate::watch::Over;

impl RunInner {
    /// Returns when the task has finished or the run is over.
    pub(crate) async fn finished(&self, task: TaskId) -> Result<()> {
        if self.watch.is_finished(task) {
            return Ok(());
        }
        self.hurry();
        let _interest = self.watch.follow(&self.core.runtime);
        loop {
            let changed = self.watch.changed(task);
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.watch.is_finished(task) {
                return Ok(());
            }
            match self.watch.over() {
                Some(Over::Ended(_)) => return Ok(()),
                Some(Over::Broken(error)) => return Err(error),
                None => changed.await,
            }
        }
    }

    /// Whether the task has finished, by asking the store when it is not known here.
    pub(crate) async fn is_finished(&self, task: TaskId) -> Result<bool> {
        if self.watch.is_finished(task) {
            return Ok(true);
        }
        self.hurry();
        let status = self.core.inspect(self.id, task).await?;
        Ok(status.is_some_and(|status| status.state.state() != TaskState::Pending))
    }

    /// The encoded result of a task, when there is one.
    pub(crate) async fn value(&self, task: TaskId) -> Result<Bytes> {
        match self.values(&[task]).await.pop() {
            Some(result) => result,
            None => Err(gone(self.id)),
        }
    }

    /// The encoded results of tasks in their order, when all of them have finished.
    pub(crate) async fn values(&self, tasks: &[TaskId]) -> Vec<Result<Bytes>> {
        let mut results: Vec<Option<Result<Bytes>>> = vec![None; tasks.len()];
        let _interest = self.watch.follow(&self.core.runtime);
        loop {
            let mut asked = Vec::new();
            for (place, task) in tasks.iter().enumerate() {
                if results[place].is_none() {
                    match self.finished(*task).await {
                        Err(error) => results[place] = Some(Err(error)),
                        Ok(()) => match self.carried_by_event(*task) {
                            Some(bytes) => results[place] = Some(Ok(bytes)),
                            None => asked.push(place),
                        },
                    }
                }
            }
            if asked.is_empty() {
                let missing = || Err(gone(self.id));
                return results.into_iter().map(|result| result.unwrap_or_else(missing)).collect();
            }
            self.ask(tasks, &asked, &mut results).await;
        }
    }

    /// Reads finished tasks' results; those that turn out to be pending again stay open.
    async fn ask(&self, tasks: &[TaskId], asked: &[usize], results: &mut [Option<Result<Bytes>>]) {
        // Asked before the tasks are looked at: an end that comes in between is seen next time.
        let over = self.watch.over();
        let mut open = asked.to_vec();
        // Twice: what is pending is forgotten to have finished before it is looked at again, so
        // that its finishing in between is noticed.
        for _ in 0..2 {
            self.look(tasks, &mut open, results).await;
        }
        // A run that is done is reopened when a lost result of it is to be computed again.
        while !open.is_empty() && matches!(over, Some(Over::Ended(_))) {
            let Ok(status) = self.status().await else { break };
            if status.state.is_running() {
                self.watch.resume(&self.core.runtime);
                return;
            }
            self.look(tasks, &mut open, results).await;
            // Where every task has ended, one that was pending has ended since, or was lost again.
            if status.finished < status.tasks {
                break;
            }
        }
        if over.is_some() {
            for place in open {
                results[place] = Some(Err(self.never(tasks[place]).await));
            }
        }
    }

    /// Reads what is there of `open`, which keeps what is pending.
    async fn look(
        &self,
        tasks: &[TaskId],
        open: &mut Vec<usize>,
        results: &mut [Option<Result<Bytes>>],
    ) {
        if open.is_empty() {
            return;
        }
        let wanted: Vec<TaskId> = open.iter().map(|place| tasks[*place]).collect();
        let found = self.core.find(self.id, &wanted).await;
        let mut pending = Vec::new();
        for (place, found) in open.iter().zip(found) {
            match found {
                Ok(Found::Value(bytes)) => results[*place] = Some(Ok(bytes)),
                Err(error) => results[*place] = Some(Err(error)),
                Ok(Found::Pending) => {
                    self.watch.unfinish(tasks[*place]);
                    pending.push(*place);
                }
            }
        }
        *open = pending;
    }

    /// The result, when the event of the task's end carried it.
    fn carried_by_event(&self, task: TaskId) -> Option<Bytes> {
        let (state, locator) = self.watch.take_recent(task)?;
        if state.state() == TaskState::Done { locator.value() } else { None }
    }

    /// Why a task of a run that is over has not finished.
    async fn never(&self, task: TaskId) -> Error {
        if let Some(Over::Broken(error)) = self.watch.over() {
            return error;
        }
        let status = match self.status().await {
            Ok(status) => status,
            Err(error) => return error,
        };
        match status.reason {
            Some(Reason::Task(cause)) => {
                let error = self.core.failure(self.id, task, cause).await;
                error.unwrap_or_else(|| {
                    let message = format!(
                        "run {} has failed, and the store has forgotten why: submit the graph again",
                        self.id
                    );
                    Error::new(ErrorKind::StoreLost, message)
                })
            }
            Some(Reason::Cancelled(reason)) => {
                Error::new(ErrorKind::Cancelled, format!("run {} was cancelled: {reason}", self.id))
            }
            None => Error::new(
                ErrorKind::Gone,
                format!(
                    "run {} has ended without task {task}: its client stopped before all of it \
                     was staged; delete the run and submit the graph again",
                    self.id
                ),
            ),
        }
    }
}
