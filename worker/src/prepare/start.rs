//! Whose turn tasks are that have everything they need: those that may not simply start ask for their
//! leases, all at once.

use std::collections::HashMap;
use std::sync::Arc;

use bolthole_broker::args::BlobDigest;
use bolthole_broker::call::Value;
use bolthole_broker::id::RunId;
use bolthole_broker::run::{Header, Ready};
use bolthole_broker::store::Error;
use bolthole_broker::task::TaskKind;
use bytes::Bytes;

use super::{Preparer, is_relay};
use crate::flight::{Doubt, Key, Prepared, TaskInfo};
use crate::turns::Turn;

/// A task that this worker can run, and that needs its inputs.
pub(super) struct Waiting {
    pub(super) ready: Ready,
    pub(super) info: TaskInfo,
    pub(super) doubt: Doubt,
    /// Of the attempt to be.
    pub(super) nonce: u64,
}

/// A task with everything it needs.
pub(super) struct Complete {
    pub(super) task: Waiting,
    pub(super) inputs: Vec<Value>,
    pub(super) blobs: HashMap<BlobDigest, Bytes>,
}

/// What the store said of a task before its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) attempt: u32,
    pub(super) nonce: u64,
    pub(super) leased: bool,
    pub(super) isolated: bool,
    pub(super) suspect: u16,
    pub(super) crashes: u32,
    pub(super) depth: u16,
}

impl Start {
    /// Of a first attempt that nobody has to be asked about.
    pub(super) fn first(nonce: u64) -> Self {
        Self { attempt: 1, nonce, leased: false, isolated: false, suspect: 0, crashes: 0, depth: 0 }
    }
}

impl Preparer {
    /// What becomes of tasks that have everything they need.
    pub(super) async fn start(
        &self,
        run: RunId,
        tasks: Vec<Complete>,
        header: &Arc<Header>,
    ) -> Result<Vec<(Key, Prepared)>, Error> {
        let asks = |one: &&Complete| self.asks(&one.task);
        let attempts = tasks.iter().filter(asks).map(|one| (one.task.ready, one.task.nonce));
        let attempts: Vec<(Ready, u64)> = attempts.collect();
        let mut turns = self.turns.take(run, &attempts).await?.into_iter();
        let mut started = Vec::with_capacity(tasks.len());
        for Complete { task, inputs, blobs } in tasks {
            let key = (run, task.ready.task);
            let turn = if self.asks(&task) { turns.next() } else { None };
            let start = match turn {
                None => Start::first(task.nonce),
                Some(Turn::Ours { attempt, crashes, taken_over }) => {
                    self.leased(&task, attempt, crashes, taken_over)
                }
                Some(Turn::NotOurs) => {
                    started.push((key, Prepared::Drop { rearmed: Vec::new() }));
                    continue;
                }
                Some(Turn::Early(wait)) => {
                    let Waiting { ready, info, .. } = task;
                    started.push((key, Prepared::Later { ready, info, wait }));
                    continue;
                }
            };
            let Waiting { ready, info, .. } = task;
            started.push((key, self.assemble(run, ready, info, inputs, blobs, header, start)));
        }
        Ok(started)
    }

    /// Whether a task starts under a lease.
    fn asks(&self, task: &Waiting) -> bool {
        let class = task.info.class();
        let guarded =
            task.doubt != Doubt::None || class.kind == TaskKind::Effect || self.isolates(class);
        guarded && !is_relay(task.ready, &task.info)
    }

    fn leased(
        &self,
        task: &Waiting,
        attempt: u32,
        crashes: Option<u32>,
        taken_over: bool,
    ) -> Start {
        let suspect = match task.doubt {
            Doubt::Deadly(reach) => reach,
            _ if taken_over || crashes.is_some() => 1,
            _ => 0,
        };
        let alone = self.isolates(task.info.class()) || suspect > 0;
        let isolated = self.children.is_some() && alone;
        let crashes = crashes.unwrap_or(0);
        let first = Start::first(task.nonce);
        Start { attempt, leased: true, isolated, suspect, crashes, ..first }
    }
}
