//! What happens to a server under a run: it is started again, it goes back to an earlier moment, its
//! functions are gone, and what was asked long ago is asked once more.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use bolthole_broker::id::TaskId;
use bolthole_broker::run::{Commit, Committed, OutboxId, Stage};
use bolthole_broker::store::{Memory, Redis, Snapshot, Store};

use super::World;
use crate::servers::{self, Contents, RedisOptions, RedisServer};

/// Moments of a history that may come back.
const MOMENTS_MAX: usize = 4;
/// Requests of a history that may come late.
const LATE_MAX: usize = 16;

/// The two stores of a comparison, and the server under the second one.
#[derive(Debug)]
pub struct Ground {
    pub(super) memory: Memory,
    pub(super) stores: [Store; 2],
    pub(super) server: RedisServer,
    /// Whether the server may be harmed: what is loaded into it instead of the functions must stay.
    pub(super) harm: bool,
}

impl Ground {
    /// A store in memory, and one in a server of its own.
    pub async fn new() -> anyhow::Result<Self> {
        let config = vec!["appendfsync always".to_owned()];
        let server = RedisServer::start(&RedisOptions { append_only: true, config })?;
        let memory = Memory::new();
        let redis = Redis::connect(&server.url(), &servers::namespace()).await?;
        let stores = [Store::Memory(memory.clone()), Store::Redis(redis)];
        Ok(Self { memory, stores, server, harm: true })
    }

    /// The server.
    pub fn server(&self) -> &RedisServer {
        &self.server
    }

    /// The store in the server.
    pub fn redis(&self) -> Store {
        self.stores[1].clone()
    }

    /// Kills the server and starts it again.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.server.kill();
        self.server.restart()
    }

    /// The text of the functions that the server has.
    pub fn functions(&self) -> anyhow::Result<String> {
        let list = self.server.ask(&[b"FUNCTION", b"LIST", b"WITHCODE"])?;
        let code = list.leaves().find(|text| text.starts_with(b"#!lua"));
        Ok(String::from_utf8(code.unwrap_or_default().to_vec())?)
    }

    /// Loads other functions. They stay: from now on the server is not harmed.
    pub fn load(&mut self, functions: &str) -> anyhow::Result<()> {
        self.harm = false;
        self.server.ask(&[b"FUNCTION", b"LOAD", b"REPLACE", functions.as_bytes()])?;
        Ok(())
    }

    /// Deletes whatever a history that failed has left.
    pub fn clear(&self) -> anyhow::Result<()> {
        self.server.ask(&[b"FLUSHALL"]).map(drop)
    }
}

/// What a client knows of its graph.
#[derive(Debug, Clone)]
struct Memo {
    inputs: BTreeMap<TaskId, Vec<TaskId>>,
    edges: BTreeSet<(TaskId, TaskId)>,
    staged: BTreeMap<u32, (Vec<(TaskId, u16)>, usize)>,
    segments: u32,
}

/// One moment of a history.
#[derive(Debug)]
pub(super) struct Moment {
    memory: Snapshot,
    redis: Contents,
    memo: Memo,
}

/// Requests that were answered, and may arrive once more.
#[derive(Debug, Default)]
pub(super) struct Late {
    commits: Vec<Commit>,
    stages: Vec<Stage>,
}

impl Late {
    pub(super) fn commit(&mut self, commit: &Commit) {
        self.commits.push(commit.clone());
        let old = self.commits.len().saturating_sub(LATE_MAX);
        self.commits.drain(..old);
    }

    pub(super) fn stage(&mut self, stage: &Stage) {
        self.stages.push(stage.clone());
        let old = self.stages.len().saturating_sub(LATE_MAX);
        self.stages.drain(..old);
    }
}

impl World<'_> {
    /// An old commit arrives again.
    pub(super) async fn stale(&mut self) -> anyhow::Result<()> {
        let places: Vec<usize> = (0..self.late.commits.len()).collect();
        let Some(place) = self.draw.pick(&places) else { return Ok(()) };
        let commit = self.late.commits[place].clone();
        self.apply(commit).await
    }

    /// A segment is staged again.
    pub(super) async fn restage(&mut self) -> anyhow::Result<()> {
        let places: Vec<usize> = (0..self.late.stages.len()).collect();
        let Some(place) = self.draw.pick(&places) else { return Ok(()) };
        let mut stage = self.late.stages[place].clone();
        if self.draw.one_in(8) {
            stage.digest[0] ^= 1;
        }
        let known = self.inputs.contains_key(&TaskId::new(stage.segment, 0));
        if !known {
            // Of a future that was undone: who submitted it submits something else by now.
            return Ok(());
        }
        let [first, second] = &self.ground.stores;
        let expected = first.stage(self.run, &stage).await;
        let found = second.stage(self.run, &stage).await;
        ensure!(format!("{expected:?}") == format!("{found:?}"), "{expected:?} {found:?}");
        Ok(())
    }

    /// The server is started again, with what it has written down.
    pub(super) fn restart(&mut self) -> anyhow::Result<()> {
        if self.ground.harm {
            self.ground.restart()?;
        }
        Ok(())
    }

    /// The server forgets its functions.
    pub(super) fn forget_functions(&mut self) -> anyhow::Result<()> {
        if self.ground.harm {
            self.ground.server.ask(&[b"FUNCTION", b"FLUSH"])?;
        }
        Ok(())
    }

    /// A moment is remembered, or an earlier one comes back: whatever happened since has not.
    pub(super) fn roll_back(&mut self) -> anyhow::Result<()> {
        let places: Vec<usize> = (0..self.moments.len()).collect();
        if self.draw.one_in(2) || places.is_empty() {
            let memo = Memo {
                inputs: self.inputs.clone(),
                edges: self.edges.clone(),
                staged: self.staged.clone(),
                segments: self.segments,
            };
            let (memory, redis) = (self.ground.memory.snapshot(), self.ground.server.contents()?);
            self.moments.push(Moment { memory, redis, memo });
            let old = self.moments.len().saturating_sub(MOMENTS_MAX);
            self.moments.drain(..old);
            return Ok(());
        }
        let place = self.draw.pick(&places).unwrap_or(0);
        self.moments.truncate(place + 1);
        let Some(Moment { memory, redis, memo }) = self.moments.pop() else { return Ok(()) };
        self.ground.memory.restore(memory);
        self.ground.server.put_back(&redis)?;
        let Memo { inputs, edges, staged, segments } = memo;
        (self.inputs, self.edges) = (inputs, edges);
        (self.staged, self.segments) = (staged, segments);
        self.last = None;
        Ok(())
    }

    /// Whether a commit is answered from what it has written down before.
    pub(super) async fn is_replayed(&self, id: OutboxId) -> anyhow::Result<bool> {
        let entries = self.ground.stores[0].outbox(self.run).await?;
        Ok(entries.iter().any(|(found, _)| *found == id))
    }

    /// The last commit is sent again: it is answered, and writes nothing.
    pub(super) async fn repeat(&mut self) -> anyhow::Result<()> {
        let Some(commit) = self.last.clone() else { return Ok(()) };
        let [first, second] = &self.ground.stores;
        let expected = first.commit(self.run, &commit).await?;
        let found = second.commit(self.run, &commit).await?;
        ensure!(expected == found, "repeated: {expected:?} {found:?}");
        let written = matches!(expected, Committed::Written { ref freed, .. } if freed.is_empty());
        ensure!(written || !matches!(expected, Committed::Written { .. }), "written twice");
        Ok(())
    }
}
