//! Results that are lost are computed again, with all else that their dead holder had.

use std::collections::HashMap;
use std::time::Duration;

use bolthole_broker::handoff::FetchError;
use bolthole_broker::id::{RunId, TaskId, WorkerIndex};
use bolthole_broker::limits::WORKER_LEASE;
use bolthole_broker::lineage::{Edges, Facts, Lineage};
use bolthole_broker::locator::Locator;
use bolthole_broker::run::Rearmed;
use bolthole_broker::store::{self, WorkerRecord};
use tokio::time::sleep;

use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{Found, HeldResult, gone};

/// The pause before a missing record of a worker is looked for again.
const RECORD_PAUSE: Duration = Duration::from_millis(250);

impl Facts for Core {
    /// Shortly after the store was away, those who live are given time to say so again.
    async fn holder(&self, worker: WorkerIndex) -> Result<Option<WorkerRecord>, store::Error> {
        loop {
            let record = self.store.worker(worker).await?;
            if record.is_some() || !self.away.was_within(WORKER_LEASE) {
                return Ok(record);
            }
            sleep(RECORD_PAUSE).await;
        }
    }

    async fn edges(
        &self,
        run: RunId,
        tasks: &[TaskId],
    ) -> Result<HashMap<TaskId, Edges>, store::Error> {
        let described = self.descriptions(run, tasks).await?.into_iter();
        let edges = described.map(|(task, (descriptor, _))| {
            let (inputs, successors) = (descriptor.inputs, descriptor.successors);
            (task, Edges { inputs, successors })
        });
        Ok(edges.collect())
    }
}

impl Core {
    /// Asks for lost results to be computed again; says of each, in their order, where it stands.
    pub(crate) async fn recompute(
        &self,
        run: RunId,
        lost: &[(&HeldResult, FetchError)],
    ) -> Vec<Result<Found>> {
        match self.recover(run, lost).await {
            Ok(found) => found,
            Err(error) => lost.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn recover(
        &self,
        run: RunId,
        lost: &[(&HeldResult, FetchError)],
    ) -> Result<Vec<Result<Found>>> {
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        let status = self.persist_in(|| self.store.status(run)).await?;
        let over = status.is_some_and(|status| !status.state.is_running());
        if over && self.persist_in(|| self.store.workers()).await?.is_empty() {
            return Ok(lost.iter().map(|(lost, _)| Err(self.unheld(run, lost))).collect());
        }
        let results: Vec<(TaskId, Locator)> =
            lost.iter().map(|(lost, _)| (lost.task, lost.locator)).collect();
        let lineage = Lineage { store: &self.store, fetcher: &self.fetcher, facts: self };
        let recovered = self.persist_in(|| lineage.recover(run, results.clone())).await?;
        self.ring_for(run, &recovered.ready).await?;
        let mut found = Vec::with_capacity(lost.len());
        for (lost, why) in lost {
            found.push(match recovered.answers.get(&lost.task) {
                Some(Rearmed::Pending(_) | Rearmed::Already | Rearmed::Moved) => Ok(Found::Pending),
                // The store has lost the segment since it named the result: it is staged again.
                None if self.inspect(run, lost.task).await?.is_none() => Ok(Found::Pending),
                None => Err(gone(run)),
                Some(Rearmed::TooOften | Rearmed::NotNeeded | Rearmed::Kept) => {
                    let message = format!(
                        "the result of task {} of run {run} is lost ({why}) and cannot be computed \
                         again: run the graph again",
                        lost.task
                    );
                    Err(Error::new(ErrorKind::Gone, message))
                }
            });
        }
        Ok(found)
    }

    /// The result of a run that is over is with nobody, and nobody is there to compute it again.
    fn unheld(&self, run: RunId, lost: &HeldResult) -> Error {
        let copy = if lost.record.copies.folder && self.durable.folder.is_none() {
            "; a copy is in the result folder: give this client the same `durable` as the workers"
        } else {
            ""
        };
        let HeldResult { task, record, .. } = lost;
        let message = format!(
            "the result of task {task} of run {run} ({} bytes) is lost: the worker that held it \
             has gone, and no worker is there to compute it again{copy}; start one and ask again",
            record.length
        );
        Error::new(ErrorKind::Lost, message)
    }
}
