//! Random histories of one run, applied to two stores that must agree on every reply and on all
//! that they hold afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bolthole_broker::clock;
use bolthole_broker::id::{Incarnation, RunId, TaskId, WorkerIndex};
use bolthole_broker::locator::{Copies, HeldRecord, Locator};
use bolthole_broker::run::{
    Activate, Activated, Commit, Committed, End, Finished, Open, OutboxId, RunDump, Stage,
};
use bolthole_broker::state::{FailurePolicy, PINNED, TaskState};
use bolthole_broker::store::EventCursor;
use bytes::Bytes;

mod draw;
mod harm;
mod steps;

use draw::Draw;
pub use harm::Ground;
use harm::{Late, Moment};

/// One step of a history: which, and what it draws from. Steps make sense after any others, so that
/// a history that fails can be shortened by leaving some out.
pub type Step = (u8, u64);

/// One run in two stores, and what its client knows of its graph.
#[derive(Debug)]
pub struct World<'a> {
    /// The specification first.
    ground: &'a mut Ground,
    run: RunId,
    draw: Draw,
    owner: Incarnation,
    sequence: u64,
    /// Inputs of every task that was staged, by its descriptor.
    inputs: BTreeMap<TaskId, Vec<TaskId>>,
    /// What the counts must add up to.
    edges: BTreeSet<(TaskId, TaskId)>,
    /// Staged segments that are not active: digest, edges from earlier ones, edges registered.
    staged: BTreeMap<u32, (Vec<(TaskId, u16)>, usize)>,
    segments: u32,
    /// The client's segments, whether the stores know them or not.
    drawn: BTreeMap<u32, Drawn>,
    last: Option<Commit>,
    late: Late,
    moments: Vec<Moment>,
}

/// A history of so many steps, which follows from `seed`.
pub fn history(seed: u64, steps: usize) -> Vec<Step> {
    let mut draw = Draw::new(seed);
    let kind = |draw: &mut Draw| u8::try_from(draw.below(256)).unwrap_or(0);
    (0..steps).map(|_| (kind(&mut draw), draw.bits())).collect()
}

/// A segment, its edges from earlier ones, and the inputs of its tasks.
type Drawn = (Stage, Vec<(TaskId, u16)>, Vec<(TaskId, Vec<TaskId>)>);

fn digest_of(segment: u32) -> [u8; 16] {
    u128::from(segment).to_be_bytes()
}

fn held_record() -> HeldRecord {
    HeldRecord { length: 9_000, digest: [3; 16], nonce: 4, copies: Copies::default() }
}

fn index(place: usize) -> u16 {
    u16::try_from(place).unwrap_or(u16::MAX)
}

impl<'a> World<'a> {
    /// A new run in both stores.
    pub async fn open(ground: &'a mut Ground, seed: u64) -> anyhow::Result<Self> {
        let mut draw = Draw::new(seed);
        let policy = if draw.one_in(4) { FailurePolicy::FailFast } else { FailurePolicy::Continue };
        let open = Open {
            name: None,
            digest: [1; 32],
            policy,
            header: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            client_lease_ms: 600_000,
            retention_ms: 600_000,
        };
        let run = clock::new_run_id();
        let world = Self {
            ground,
            run,
            draw,
            owner: clock::new_incarnation(),
            sequence: 0,
            inputs: BTreeMap::new(),
            edges: BTreeSet::new(),
            staged: BTreeMap::new(),
            segments: 0,
            drawn: BTreeMap::new(),
            last: None,
            late: Late::default(),
            moments: Vec::new(),
        };
        for store in &world.ground.stores {
            store.open(run, &open).await?;
        }
        Ok(world)
    }

    /// Takes the steps of a history; both stores agree after each.
    pub async fn walk(&mut self, history: &[Step]) -> anyhow::Result<()> {
        self.stage().await?;
        for (number, (kind, seed)) in history.iter().enumerate() {
            self.draw = Draw::new(*seed);
            self.step(*kind).await.with_context(|| format!("step {number}, of kind {kind}"))?;
            self.agree().await.with_context(|| format!("after step {number}, of kind {kind}"))?;
        }
        let cursor = EventCursor::default();
        let [first, second] = &self.ground.stores;
        let expected = first.events(self.run, &cursor, Duration::ZERO).await?;
        let found = second.events(self.run, &cursor, Duration::ZERO).await?;
        ensure!(expected.finished == found.finished, "events differ");
        ensure!(expected.run == found.run, "ends differ");
        for store in &self.ground.stores {
            store.purge(self.run).await?;
            ensure!(store.dump(self.run).await?.is_none(), "purged");
        }
        Ok(())
    }

    async fn step(&mut self, kind: u8) -> anyhow::Result<()> {
        match kind {
            0..=11 => self.stage().await,
            12..=19 => self.activate().await,
            // A restart takes long: not twice as often as the others below.
            20..=59 | 255 => self.commit().await,
            60..=63 => self.repeat().await,
            64..=71 => self.rearm().await,
            72..=79 => self.unpin().await,
            80..=87 => self.spawn().await,
            88..=91 => self.lease().await,
            92..=94 => self.retry().await,
            95..=97 => self.look().await,
            98 => self.settle().await,
            99 => self.close().await,
            100..=107 => self.revive().await,
            108..=110 => self.unlease().await,
            111..=113 => self.relocate().await,
            114..=119 => self.stale().await,
            120..=121 => self.restage().await,
            122..=125 => self.roll_back(),
            126 => self.forget_functions(),
            127 => self.restart(),
            // Twice as often as once.
            _ => Box::pin(self.step(kind - 128)).await,
        }
    }

    async fn dumps(&self) -> anyhow::Result<(RunDump, RunDump)> {
        let [first, second] = &self.ground.stores;
        let expected = first.dump(self.run).await?.context("the first store has no such run")?;
        let found = second.dump(self.run).await?.context("the second store has no such run")?;
        Ok((expected, found))
    }

    async fn agree(&self) -> anyhow::Result<()> {
        let (expected, found) = self.dumps().await?;
        ensure!(expected == found, "the stores differ:\n{expected:#?}\n{found:#?}");
        if expected.status.state.is_running() {
            expected.check(&self.edges).map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    /// Tasks of active segments with their state, by the first store.
    async fn tasks(&self) -> anyhow::Result<Vec<(TaskId, TaskState, u8, Locator)>> {
        let dump = self.ground.stores[0].dump(self.run).await?.context("no run")?;
        let mut all = Vec::new();
        for (segment, arena) in dump.segments.iter().filter(|(_, arena)| arena.active) {
            for (place, task) in arena.tasks.iter().enumerate() {
                let id = TaskId::new(*segment, index(place));
                let locator = Locator::from_bytes(task.locator)?;
                all.push((id, task.state.state(), task.state.generation(), locator));
            }
        }
        Ok(all)
    }

    async fn stage(&mut self) -> anyhow::Result<()> {
        let segment = self.segments;
        let (stage, edges) = self.next_segment(segment).await?;
        let [first, second] = &self.ground.stores;
        let expected = first.stage(self.run, &stage).await;
        let found = second.stage(self.run, &stage).await;
        ensure!(format!("{expected:?}") == format!("{found:?}"), "{expected:?} {found:?}");
        self.late.stage(&stage);
        if expected.is_ok() {
            self.segments += 1;
            self.staged.insert(segment, (edges, 0));
            self.activate_segment(segment).await?;
        } else {
            self.inputs.retain(|task, _| task.segment() != segment);
        }
        Ok(())
    }

    /// A segment, with its edges from earlier ones. Who stages it once more, after it was forgotten,
    /// stages the same: tasks of it may be on their way still.
    async fn next_segment(&mut self, segment: u32) -> anyhow::Result<(Stage, Vec<(TaskId, u16)>)> {
        if let Some((stage, edges, inputs)) = self.drawn.get(&segment).cloned() {
            self.inputs.extend(inputs);
            return Ok((stage, edges));
        }
        let tasks = self.tasks().await?;
        let count = 1 + self.draw.below(12);
        let mut edges = Vec::new();
        let stage = self.draw_segment(segment, count);
        for place in 0..count {
            let mut inputs = BTreeSet::new();
            for _ in 0..self.draw.below(4) {
                inputs.extend(self.draw.pick(&tasks).map(|(task, ..)| task));
            }
            inputs.retain(|input| input.segment() < segment);
            let task = TaskId::new(segment, index(place));
            edges.extend(inputs.iter().map(|input| (*input, index(place))));
            self.inputs.entry(task).or_default().extend(inputs);
        }
        let own = self.inputs.iter().filter(|(task, _)| task.segment() == segment);
        let inputs = own.map(|(task, inputs)| (*task, inputs.clone())).collect();
        self.drawn.insert(segment, (stage.clone(), edges.clone(), inputs));
        Ok((stage, edges))
    }

    /// Columns of `count` tasks with edges among them, which are noted as their inputs.
    fn draw_segment(&mut self, segment: u32, count: usize) -> Stage {
        let (mut pending, mut consumers) = (vec![0; count], vec![0_u32; count]);
        for place in 0..count {
            let mut inputs = BTreeSet::new();
            for _ in 0..self.draw.below(3) {
                if place > 0 {
                    inputs.insert(self.draw.below(place));
                }
            }
            pending[place] = u32::try_from(inputs.len()).unwrap_or(u32::MAX);
            for input in &inputs {
                consumers[*input] += 1;
            }
            if self.draw.one_in(3) {
                consumers[place] |= PINNED;
            }
            let own: Vec<_> =
                inputs.iter().map(|input| TaskId::new(segment, index(*input))).collect();
            self.inputs.insert(TaskId::new(segment, index(place)), own);
        }
        let chunks = vec![Bytes::from_static(b"chunk"); count.div_ceil(128)];
        Stage { segment, digest: digest_of(segment), pending, consumers, chunks }
    }

    async fn activate(&mut self) -> anyhow::Result<()> {
        let known: Vec<u32> = (0..self.segments).collect();
        match self.draw.pick(&known) {
            Some(segment) => self.activate_segment(segment).await,
            None => Ok(()),
        }
    }

    /// The next slice of a segment's edges, perhaps the last.
    async fn activate_segment(&mut self, segment: u32) -> anyhow::Result<()> {
        let (edges, registered) = self.staged.get(&segment).cloned().unwrap_or_default();
        let last = self.draw.below(3) > 0;
        let left = edges.len() - registered;
        let count = if last { left } else { self.draw.below(left + 1) };
        let stale = self.draw.one_in(8);
        let cursor = if stale { registered + 1 } else { registered };
        let activate = Activate {
            segment,
            digest: digest_of(segment),
            cursor: u32::try_from(cursor)?,
            edges: edges[registered..registered + count].to_vec(),
            last,
        };
        let [first, second] = &self.ground.stores;
        let expected = first.activate(self.run, &activate).await;
        let found = second.activate(self.run, &activate).await;
        ensure!(format!("{expected:?}") == format!("{found:?}"), "{expected:?} {found:?}");
        match expected {
            Ok(Activated::Active { .. }) => {
                self.staged.remove(&segment);
                self.note_edges(segment, &activate.edges);
                self.note_own_edges(segment);
            }
            Ok(Activated::More { cursor }) if !stale => {
                self.note_edges(segment, &activate.edges);
                if let Some((_, registered)) = self.staged.get_mut(&segment) {
                    *registered = cursor as usize;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn note_edges(&mut self, segment: u32, edges: &[(TaskId, u16)]) {
        self.edges
            .extend(edges.iter().map(|(input, place)| (*input, TaskId::new(segment, *place))));
    }

    fn note_own_edges(&mut self, segment: u32) {
        let own = self.inputs.range(TaskId::new(segment, 0)..=TaskId::new(segment, u16::MAX));
        for (task, inputs) in own {
            let same = inputs.iter().filter(|input| input.segment() == segment);
            self.edges.extend(same.map(|input| (*input, *task)));
        }
    }

    /// The inputs of a task that is to be finished: the one it waits for when it has forwarded.
    async fn inputs_of(&self, task: TaskId) -> anyhow::Result<Vec<TaskId>> {
        let status = self.ground.stores[0].inspect(self.run, &[task]).await?;
        if let Some(Some(status)) = status.first()
            && status.state.is_forwarded()
            && let Some(record) = &status.record
        {
            let mut bits = [0; 8];
            bits[2..].copy_from_slice(record);
            return Ok(TaskId::from_bits(u64::from_be_bytes(bits)).into_iter().collect());
        }
        Ok(self.inputs.get(&task).cloned().unwrap_or_default())
    }

    fn successors_of(&self, task: TaskId) -> Vec<TaskId> {
        let same = |other: &TaskId| other.segment() == task.segment();
        let all =
            self.inputs.iter().filter(|(other, inputs)| same(other) && inputs.contains(&task));
        all.map(|(other, _)| *other).collect()
    }

    /// A commit of these tasks, with the counts their descriptors give.
    async fn commit_of(&mut self, ends: Vec<(TaskId, u8, End)>) -> anyhow::Result<Commit> {
        let (mut releases, mut consumed) = (BTreeMap::new(), BTreeMap::new());
        let mut finished = Vec::new();
        let segment = ends.first().map_or(0, |(task, ..)| task.segment());
        for (task, generation, end) in ends {
            if !matches!(end, End::Forwarded { .. }) {
                for successor in self.successors_of(task) {
                    *releases.entry(successor).or_insert(0_u32) += 1;
                }
            }
            let stale = self.draw.one_in(40);
            let inputs = if stale {
                self.inputs.get(&task).cloned().unwrap_or_default()
            } else {
                self.inputs_of(task).await?
            };
            for input in inputs {
                *consumed.entry(input).or_insert(0_u32) += 1;
            }
            let lease = if self.draw.one_in(2) { Some(self.draw.bits() % 3) } else { None };
            finished.push(Finished { index: task.index(), generation, end, lease });
        }
        self.sequence += 1;
        let settled =
            if self.draw.one_in(3) { vec![self.draw.bits() % self.sequence] } else { vec![] };
        Ok(Commit {
            segment,
            finished,
            releases: releases.into_iter().collect(),
            consumed: consumed.into_iter().collect(),
            outbox: OutboxId { owner: self.owner, sequence: self.sequence },
            settled,
            spawn: None,
        })
    }

    fn draw_end(&mut self, all: &[TaskId]) -> End {
        let keep = self.draw.one_in(12);
        let value = Bytes::from(vec![7; 8 + self.draw.below(200)]);
        match self.draw.below(12) {
            0 => End::Failed { error: Bytes::from_static(b"boom") },
            1 => match self.draw.pick(all) {
                Some(cause) => End::Skipped { cause },
                None => End::Failed { error: Bytes::new() },
            },
            2..=5 => {
                let length = u32::try_from(value.len()).unwrap_or(0);
                End::Done { locator: Locator::Stored { length }, record: value, keep }
            }
            6..=8 => {
                let record = held_record().to_bytes();
                let locator = Locator::held(WorkerIndex::new(5), 9_000);
                End::Done { locator, record: record.into(), keep }
            }
            _ => {
                let locator = Locator::embed(b"value").unwrap_or(Locator::Empty);
                End::Done { locator, record: Bytes::new(), keep }
            }
        }
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        let tasks = self.tasks().await?;
        let segments: Vec<u32> = tasks.iter().map(|(task, ..)| task.segment()).collect();
        let Some(segment) = self.draw.pick(&segments) else { return Ok(()) };
        let all: Vec<TaskId> = tasks.iter().map(|(task, ..)| *task).collect();
        let careless = self.draw.one_in(10);
        let mut ends = Vec::new();
        for (task, state, generation, _) in tasks {
            let fit = state == TaskState::Pending || careless;
            if task.segment() == segment && fit && self.draw.one_in(2) {
                let generation = if self.draw.one_in(50) { generation + 1 } else { generation };
                ends.push((task, generation, self.draw_end(&all)));
            }
        }
        if ends.is_empty() {
            return Ok(());
        }
        let commit = self.commit_of(ends).await?;
        self.apply(commit).await
    }

    async fn apply(&mut self, commit: Commit) -> anyhow::Result<()> {
        let forwarded = self.forwarded(&commit).await?;
        let replayed = self.is_replayed(commit.outbox).await?;
        let [first, second] = &self.ground.stores;
        let expected = first.commit(self.run, &commit).await?;
        let found = second.commit(self.run, &commit).await?;
        ensure!(expected == found, "{commit:#?}\n{expected:#?}\n{found:#?}");
        if matches!(expected, Committed::Written { .. }) && !replayed {
            self.note_written(&commit, &forwarded);
        }
        self.late.commit(&commit);
        self.last = Some(commit);
        Ok(())
    }

    /// Tasks of a commit that had been forwarded before, and to what.
    async fn forwarded(&self, commit: &Commit) -> anyhow::Result<Vec<(TaskId, TaskId)>> {
        let mut found = Vec::new();
        for one in &commit.finished {
            let task = TaskId::new(commit.segment, one.index);
            let status = self.ground.stores[0].inspect(self.run, &[task]).await?;
            if status
                .first()
                .is_some_and(|it| it.as_ref().is_some_and(|it| it.state.is_forwarded()))
            {
                found.extend(self.inputs_of(task).await?.into_iter().map(|to| (task, to)));
            }
        }
        Ok(found)
    }

    fn note_written(&mut self, commit: &Commit, forwarded: &[(TaskId, TaskId)]) {
        if let Some((segment, _)) = commit.spawn {
            self.note_own_edges(segment);
        }
        for (task, target) in forwarded {
            self.edges.remove(&(*target, *task));
            for input in self.inputs.get(task).cloned().unwrap_or_default() {
                self.edges.insert((input, *task));
            }
        }
        for one in &commit.finished {
            if let End::Forwarded { to } = one.end {
                let task = TaskId::new(commit.segment, one.index);
                self.edges.retain(|(_, consumer)| *consumer != task);
                self.edges.insert((to, task));
            }
        }
    }
}
