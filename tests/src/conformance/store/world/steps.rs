//! Steps beside staging and committing.

use anyhow::ensure;
use bolthole_broker::id::{TaskId, WorkerIndex};
use bolthole_broker::limits::WORKER_LEASE;
use bolthole_broker::locator::Locator;
use bolthole_broker::run::{
    End, LeaseRequest, Leased, Lost, Relocation, Retried, Retry, Revive, SPAWNED_SEGMENTS, Setback,
};
use bolthole_broker::state::TaskState;
use bolthole_broker::store::Error;

use super::{World, digest_of, held_record, index};

impl World<'_> {
    pub(super) async fn rearm(&mut self) -> anyhow::Result<()> {
        let tasks = self.tasks().await?;
        let mut lost = Vec::new();
        for (task, _, _, locator) in tasks {
            if self.draw.one_in(5) {
                let locator = if self.draw.one_in(8) { Locator::Empty } else { locator };
                let inputs = self.inputs.get(&task).cloned().unwrap_or_default();
                let successors = self.successors_of(task);
                lost.push(Lost { task, locator, inputs, successors });
            }
        }
        let [first, second] = &self.ground.stores;
        let expected = first.rearm(self.run, &lost).await?;
        let found = second.rearm(self.run, &lost).await?;
        ensure!(expected == found, "{lost:?} {expected:?} {found:?}");
        Ok(())
    }

    /// All or some of what has no result is revived, and perhaps the run goes on.
    pub(super) async fn revive(&mut self) -> anyhow::Result<()> {
        let mut revive = Vec::new();
        let some = self.draw.one_in(4);
        for (task, state, generation, _) in self.tasks().await? {
            let fit = state.has_no_result() || self.draw.one_in(20);
            if fit && !(some && self.draw.one_in(3)) {
                let stale = self.draw.one_in(20);
                let generation = if stale { generation + 1 } else { generation };
                let inputs = self.inputs.get(&task).cloned().unwrap_or_default();
                let successors = self.successors_of(task);
                revive.push(Revive { task, generation, inputs, successors });
            }
        }
        let resume = self.draw.one_in(2);
        let [first, second] = &self.ground.stores;
        let expected = first.revive(self.run, &revive).await?;
        ensure!(expected == second.revive(self.run, &revive).await?, "{revive:?} {expected:?}");
        if resume {
            let expected = first.resume(self.run).await?;
            ensure!(expected == second.resume(self.run).await?, "{expected:?}");
            // A commit that came too late for the run as it was may be written now.
            self.last = None;
        }
        Ok(())
    }

    pub(super) async fn unpin(&mut self) -> anyhow::Result<()> {
        let tasks = self.tasks().await?;
        let some: Vec<TaskId> =
            tasks.iter().map(|(task, ..)| *task).filter(|_| self.draw.one_in(6)).collect();
        let [first, second] = &self.ground.stores;
        let expected = first.unpin(self.run, &some).await?;
        let found = second.unpin(self.run, &some).await?;
        ensure!(expected == found, "{some:?} {expected:?} {found:?}");
        Ok(())
    }

    /// A task submits tasks, and perhaps returns one of them.
    pub(super) async fn spawn(&mut self) -> anyhow::Result<()> {
        let tasks = self.tasks().await?;
        let pending: Vec<_> =
            tasks.iter().filter(|(_, state, ..)| *state == TaskState::Pending).copied().collect();
        let Some((task, _, generation, _)) = self.draw.pick(&pending) else { return Ok(()) };
        let [first, second] = &self.ground.stores;
        let reserved = first.reserve(self.run).await?;
        ensure!(reserved == second.reserve(self.run).await?, "reserved numbers");
        // As workers draw it: a store that was rolled back would give a number twice.
        let segment = SPAWNED_SEGMENTS | u32::try_from(self.draw.bits() >> 33)?;
        let count = 1 + self.draw.below(4);
        let stage = self.draw_segment(segment, count);
        let [first, second] = &self.ground.stores;
        let expected = first.stage(self.run, &stage).await;
        let found = second.stage(self.run, &stage).await;
        ensure!(format!("{expected:?}") == format!("{found:?}"), "{expected:?} {found:?}");
        self.late.stage(&stage);
        if self.draw.one_in(6) {
            for store in &self.ground.stores {
                store.unstage(self.run, segment).await?;
            }
        }
        let to = TaskId::new(segment, index(self.draw.below(count + usize::from(count == 2))));
        let to = if self.draw.one_in(12) { TaskId::new(segment - 1, to.index()) } else { to };
        let end = if self.draw.one_in(4) { self.draw_end(&[task]) } else { End::Forwarded { to } };
        let mut commit = self.commit_of(vec![(task, generation, end)]).await?;
        let digest = digest_of(if self.draw.one_in(20) { 0 } else { segment });
        commit.spawn = Some((segment, digest));
        self.apply(commit).await
    }

    pub(super) async fn lease(&mut self) -> anyhow::Result<()> {
        let tasks = self.tasks().await?;
        let mut requests = Vec::new();
        for (task, _, generation, _) in tasks {
            if self.draw.one_in(5) {
                let nonce = self.draw.bits() % 3;
                let over = if self.draw.one_in(4) { Some(self.draw.bits() % 3) } else { None };
                let generation = generation + u8::from(self.draw.one_in(10));
                requests.push(LeaseRequest { task, generation, nonce, over });
            }
        }
        self.take_leases(&requests).await
    }

    async fn take_leases(&mut self, requests: &[LeaseRequest]) -> anyhow::Result<()> {
        let holder = self.owner;
        let [first, second] = &self.ground.stores;
        let expected = first.lease(self.run, holder, WORKER_LEASE, requests).await?;
        let found = second.lease(self.run, holder, WORKER_LEASE, requests).await?;
        ensure!(expected.len() == found.len(), "leases: {expected:?} {found:?}");
        for (expected, found) in expected.iter().zip(&found) {
            let both_early =
                matches!((expected, found), (Leased::NotDue { .. }, Leased::NotDue { .. }));
            ensure!(both_early || expected == found, "{requests:?} {expected:?} {found:?}");
        }
        Ok(())
    }

    pub(super) async fn unlease(&mut self) -> anyhow::Result<()> {
        let mut leases = Vec::new();
        for (task, ..) in self.tasks().await? {
            if self.draw.one_in(3) {
                leases.push((task, self.draw.bits() % 3));
            }
        }
        for store in &self.ground.stores {
            store.unlease(self.run, &leases).await?;
        }
        Ok(())
    }

    /// Results get other holders, or copies that outlive the workers.
    pub(super) async fn relocate(&mut self) -> anyhow::Result<()> {
        let mut relocations = Vec::new();
        for (task, _, generation, from) in self.tasks().await? {
            if self.draw.one_in(3) {
                let stale = self.draw.one_in(8);
                let generation = if stale { generation + 1 } else { generation };
                let from = if self.draw.one_in(8) { Locator::Empty } else { from };
                let mut record = held_record();
                record.copies.folder = self.draw.one_in(2);
                let worker = u32::try_from(self.draw.below(3))?;
                record.copies.worker = self.draw.one_in(2).then(|| WorkerIndex::new(worker));
                let apart = self.draw.one_in(3);
                let held = Locator::held(WorkerIndex::new(worker), record.length);
                let to = if apart { Locator::apart(record.length) } else { held };
                let record = record.to_bytes().into();
                relocations.push(Relocation { task, generation, from, to, record });
            }
        }
        let [first, second] = &self.ground.stores;
        let expected = first.relocate(self.run, &relocations).await?;
        let found = second.relocate(self.run, &relocations).await?;
        ensure!(expected == found, "{relocations:?} {expected:?} {found:?}");
        Ok(())
    }

    pub(super) async fn retry(&mut self) -> anyhow::Result<()> {
        for (task, _, generation, _) in self.tasks().await? {
            if !self.draw.one_in(3) {
                continue;
            }
            let retry = Retry {
                task,
                generation,
                setback: [Setback::Failed, Setback::Stuck, Setback::Crashed][self.draw.below(3)],
                attempt: 1 + u32::try_from(self.draw.below(4) / 2)?,
                lease: if self.draw.one_in(4) { None } else { Some(self.draw.bits() % 3) },
                // Never due, or long due: nothing depends on which clock is ahead.
                delay_ms: if self.draw.one_in(3) { 600_000 } else { 0 },
            };
            if let Some(nonce) = retry.lease.filter(|_| self.draw.one_in(2)) {
                self.take_leases(&[LeaseRequest { task, generation, nonce, over: None }]).await?;
            }
            let [first, second] = &self.ground.stores;
            let expected = first.retry(self.run, &retry).await?;
            let found = second.retry(self.run, &retry).await?;
            let both_due = matches!((expected, found), (Retried::Due { .. }, Retried::Due { .. }));
            ensure!(both_due || expected == found, "{retry:?} {expected:?} {found:?}");
        }
        Ok(())
    }

    pub(super) async fn look(&mut self) -> anyhow::Result<()> {
        let tasks: Vec<TaskId> = self.tasks().await?.iter().map(|(task, ..)| *task).collect();
        let [first, second] = &self.ground.stores;
        let segments = first.segments(self.run).await?;
        ensure!(segments == second.segments(self.run).await?, "segments");
        for segment in segments {
            let expected = first.ready(self.run, segment).await?;
            let found = second.ready(self.run, segment).await?;
            ensure!(expected == found, "ready: {expected:?} {found:?}");
            let expected = first.states(self.run, segment).await?;
            ensure!(expected == second.states(self.run, segment).await?, "states");
        }
        let expected = first.inspect(self.run, &tasks).await?;
        ensure!(expected == second.inspect(self.run, &tasks).await?, "inspect");
        Ok(())
    }

    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        let entries = self.ground.stores[0].outbox(self.run).await?;
        let known: Vec<usize> = (0..entries.len()).collect();
        let Some(place) = self.draw.pick(&known) else { return Ok(()) };
        let (id, ready) = &entries[place];
        let read = if self.draw.one_in(3) { &[] } else { ready.as_slice() };
        let [first, second] = &self.ground.stores;
        let expected = first.settle(self.run, *id, read).await?;
        ensure!(expected == second.settle(self.run, *id, read).await?, "settled");
        Ok(())
    }

    pub(super) async fn close(&mut self) -> anyhow::Result<()> {
        let cancel = self.draw.one_in(3);
        let [first, second] = &self.ground.stores;
        let (expected, found) = if cancel {
            (first.cancel(self.run, "why").await?, second.cancel(self.run, "why").await?)
        } else {
            let segments = self.draw.pick(&[0, 1, 2, 9]).unwrap_or_default();
            let expected = first.close_whole(self.run, segments).await;
            match (expected, second.close_whole(self.run, segments).await) {
                (Err(Error::Refused(expected)), Err(Error::Refused(found))) => {
                    ensure!(expected == found, "{expected} {found}");
                    return Ok(());
                }
                (expected, found) => (expected?, found?),
            }
        };
        ensure!(expected == found, "{expected:?} {found:?}");
        Ok(())
    }
}
