//! Workers: records that run out unless they are renewed.

use std::collections::btree_map::Entry;
use std::time::Duration;

use super::{Memory, millis};
use crate::clock;
use crate::id::{Incarnation, WorkerIndex};
use crate::limits;
use crate::store::{Error, WorkerRecord};

#[allow(clippy::unused_async, reason = "every store has the same asynchronous methods")]
impl Memory {
    pub(in crate::store) async fn join(
        &self,
        record: &WorkerRecord,
        hold: Duration,
    ) -> Result<WorkerIndex, Error> {
        let until = self.now_ms() + millis(hold);
        let mut state = self.state();
        loop {
            let [_, low @ ..] = clock::random_bytes::<4>();
            let index = WorkerIndex::new(u32::from_be_bytes([0, low[0], low[1], low[2]]));
            if let Entry::Vacant(free) = state.workers.entry(index) {
                free.insert((record.clone(), until));
                return Ok(index);
            }
        }
    }

    pub(in crate::store) async fn beat(
        &self,
        index: WorkerIndex,
        record: &WorkerRecord,
        hold: Duration,
    ) -> Result<bool, Error> {
        let now_ms = self.now_ms();
        let renewed = (record.clone(), now_ms + millis(hold));
        let before = self.state().workers.insert(index, renewed);
        Ok(before.is_some_and(|(_, until)| until > now_ms))
    }

    pub(in crate::store) async fn leave(&self, index: WorkerIndex) -> Result<(), Error> {
        self.state().workers.remove(&index);
        Ok(())
    }

    pub(in crate::store) async fn worker(
        &self,
        index: WorkerIndex,
    ) -> Result<Option<WorkerRecord>, Error> {
        let now_ms = self.now_ms();
        let state = self.state();
        let living = state.workers.get(&index).filter(|(_, until)| *until > now_ms);
        Ok(living.map(|(record, _)| record.clone()))
    }

    pub(in crate::store) async fn workers(
        &self,
    ) -> Result<Vec<(WorkerIndex, WorkerRecord)>, Error> {
        let now_ms = self.now_ms();
        let state = self.state();
        let living = state.workers.iter().filter(|(_, (_, until))| *until > now_ms);
        Ok(living.map(|(index, (record, _))| (*index, record.clone())).collect())
    }

    pub(in crate::store) async fn neighbours(
        &self,
        index: WorkerIndex,
        count: usize,
    ) -> Result<Vec<(WorkerIndex, WorkerRecord)>, Error> {
        let (before, after): (Vec<_>, Vec<_>) = self
            .workers()
            .await?
            .into_iter()
            .filter(|(other, _)| *other != index)
            .partition(|(other, _)| *other < index);
        Ok(after.into_iter().chain(before).take(count).collect())
    }

    pub(in crate::store) async fn admit(
        &self,
        task: &str,
        owner: Incarnation,
        wanted: u32,
        max: u32,
        hold: Duration,
    ) -> Result<u32, Error> {
        let now_ms = self.now_ms();
        let mut state = self.state();
        let permits = state.permits.entry(task.to_owned()).or_default();
        permits.retain(|who, (_, until)| *until > now_ms && *who != owner);
        let others = permits.values().fold(0_u32, |sum, (count, _)| sum.saturating_add(*count));
        let granted = wanted.min(max.saturating_sub(others));
        if granted > 0 {
            permits.insert(owner, (granted, now_ms + millis(hold)));
        } else if permits.is_empty() {
            state.permits.remove(task);
        }
        Ok(granted)
    }

    pub(in crate::store) async fn seek(
        &self,
        queues: &[String],
        hold: Duration,
    ) -> Result<(), Error> {
        let until = self.now_ms() + millis(hold);
        let said = queues.iter().map(|queue| (queue.clone(), until));
        self.state().sought.extend(said);
        Ok(())
    }

    pub(in crate::store) async fn sought(&self, queue: &str) -> Result<bool, Error> {
        let now_ms = self.now_ms();
        let said = self.state().sought.remove(queue);
        Ok(said.is_some_and(|until| until > now_ms))
    }

    pub(in crate::store) async fn bury(&self, index: WorkerIndex) -> Result<(), Error> {
        let now_ms = self.now_ms();
        let mut state = self.state();
        if let Some((_, until)) = state.workers.get_mut(&index) {
            *until = now_ms.min(*until);
        }
        Ok(())
    }

    pub(in crate::store) async fn deaths(&self) -> Result<Vec<WorkerIndex>, Error> {
        let now_ms = self.now_ms();
        let since = now_ms.saturating_sub(millis(limits::DEATH_MEMORY));
        let state = self.state();
        let all = state.workers.iter();
        let dead = all.filter(|(_, (_, until))| *until <= now_ms && *until > since);
        Ok(dead.map(|(index, _)| *index).collect())
    }
}
