//! How a run is opened, and what is done with it at once.

use std::sync::Arc;
use std::time::Duration;

use bolthole_broker::clock;
use bolthole_broker::graph::{Captured, Plan, plan};
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits::{
    CLIENT_LEASE, RUN_HEADER_BYTES_MAX, RUN_RETENTION, SEGMENT_TASKS_MAX, UNNAMED_RETENTION,
    UNPIN_TASKS_MAX,
};
use bolthole_broker::run::{Header, Open, Opened};
use bolthole_broker::state::{FailurePolicy, RunState};

use super::{Run, RunInner};
use crate::client::Client;
use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::gone;
use crate::outputs::{Outputs, Results, Tasks, captured};
use crate::progress::Progress;
use crate::restage::Staged;
use crate::watch::Watch;
use crate::writer::{Entry, Writer, check_queues};

/// The options of a run to be. Ends in one of [`RunBuilder::open`], [`RunBuilder::compute`],
/// [`RunBuilder::persist`] and [`RunBuilder::submit`].
#[derive(Debug, Clone)]
pub struct RunBuilder {
    client: Client,
    name: Option<String>,
    header: Header,
    policy: FailurePolicy,
    retention: Option<Duration>,
    /// Whether waiting for results shows how the run gets on.
    progress: bool,
}

/// How often a graph is offered to the store when its run is closed meanwhile, which takes a client
/// that is silent for longer than its lease each time.
const ACCEPT_TRIES: u32 = 3;

/// A planned graph that the store has taken.
struct Accepted {
    id: RunId,
    outputs: Vec<TaskId>,
    /// The number of the segment after the last.
    next: u32,
    /// Whether the run was there, and had ended without success.
    spent: bool,
}

impl RunBuilder {
    pub(crate) fn new(client: &Client, name: Option<String>) -> Self {
        let (header, policy) = (Header::new(), FailurePolicy::default());
        Self { client: client.clone(), name, header, policy, retention: None, progress: false }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        self.client.core()
    }

    /// Whether [`RunBuilder::compute`] shows how the run gets on, on standard error: bars on a
    /// terminal, elsewhere a line for every 5 % of the tasks. Blocking clients do by default.
    #[must_use]
    pub fn progress(mut self, progress: bool) -> Self {
        self.progress = progress;
        self
    }

    /// A value that travels with the run: tasks read it from their `Ctx`.
    #[must_use]
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.header.insert(key.into(), value.into());
        self
    }

    /// What a failed task means for the rest. The default is to fail the run at once.
    #[must_use]
    pub fn policy(mut self, policy: FailurePolicy) -> Self {
        self.policy = policy;
        self
    }

    /// How long state and results outlive the run's end: a day by default, an hour for a run without
    /// a name whose client has gone.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Opens a run that takes calls one by one: `task::submit(&run, ..)`.
    pub async fn open(self) -> Result<Run> {
        let digest = match &self.name {
            Some(name) => *blake3::hash(format!("stream {name}").as_bytes()).as_bytes(),
            None => clock::random_bytes(),
        };
        let core = self.client.core();
        let (id, open) = match self.open_as(digest, false).await? {
            (id, false, open) => (id, open),
            (id, true, _) => {
                let name = self.name.unwrap_or_default();
                let message = format!(
                    "a stream named {name:?} was opened before, as run {id}; attach to it to read \
                     its results, or choose another name"
                );
                return Err(Error::new(ErrorKind::Conflict, message));
            }
        };
        let watch = Watch::of_new_run(id, core);
        let staged = core.remember_staged(id, open, false, &watch).await?;
        let unnamed = self.name.is_none();
        let writer = Writer::start(core, Arc::clone(&staged), Arc::clone(&watch), unnamed, 0);
        let run = RunInner::new(core, id, self.name, watch, Some(writer), Some(staged));
        core.remember(&run);
        Ok(Run::of(run))
    }

    /// Computes the outputs and returns their values. A run without a name is deleted when its
    /// results are read; one with a name stays, and the same graph under the same name attaches to
    /// it instead of computing anything again.
    pub async fn compute<O: Outputs>(self, outputs: O) -> Result<O::Values> {
        let core = Arc::clone(self.client.core());
        let graph = captured(&outputs)?;
        if let Some(run) = graph.run {
            return within(&core, run)?.compute_captured(graph, &outputs).await;
        }
        let unnamed = self.name.is_none();
        let progress = self.progress;
        let (accepted, run) = self.accept(graph, true).await?;
        let shown = Progress::start(&run, progress);
        let results = run.values(&accepted.outputs).await;
        shown.finish().await;
        let values = outputs.values(&mut Results::new(&accepted.outputs, results));
        let spent = run.name.as_deref().filter(|_| accepted.spent);
        let values = values.map_err(|error| match spent {
            Some(name) => error.of_spent(name),
            None => error,
        });
        // Mostly it has ended.
        if unnamed && core.reap_now(&[run.id]).await == [false] {
            Run::of(run).forget().await?;
        }
        values
    }

    /// Starts computing the outputs and returns handles of them. Their run takes further calls,
    /// which may use the handles, until the last handle is dropped.
    pub async fn persist<O: Outputs>(self, outputs: O) -> Result<O::Handles> {
        self.start(outputs, false).await
    }

    /// Starts computing the outputs and returns handles of them. Their run takes no further calls:
    /// the client may go.
    pub async fn submit<O: Outputs>(self, outputs: O) -> Result<O::Handles> {
        self.start(outputs, true).await
    }

    async fn start<O: Outputs>(self, outputs: O, close: bool) -> Result<O::Handles> {
        let (run, tasks) = self.start_captured(captured(&outputs)?, close).await?;
        Ok(outputs.handles(&mut Tasks::new(run, tasks)))
    }

    /// Starts one call in a run of its own, or in the open run whose handles it uses.
    pub(crate) async fn submit_one(self, graph: Captured) -> Result<(Arc<RunInner>, TaskId)> {
        let (run, tasks) = self.start_captured(graph, true).await?;
        match tasks.first() {
            Some(task) => Ok((run, *task)),
            None => Err(Error::new(ErrorKind::Store, "the call has no task")),
        }
    }

    async fn start_captured(
        self,
        graph: Captured,
        close: bool,
    ) -> Result<(Arc<RunInner>, Vec<TaskId>)> {
        let core = Arc::clone(self.client.core());
        if let Some(run) = graph.run {
            let run = within(&core, run)?;
            let tasks = run.add(graph).await?;
            return Ok((Arc::clone(run.inner()), tasks));
        }
        let named = self.name.is_some();
        let (accepted, run) = self.accept(graph, close || named).await?;
        if named {
            return Ok((run, accepted.outputs));
        }
        // The pins of an unnamed run go with its handles.
        let watch = Arc::clone(&run.watch);
        let staged = run.staged.clone().ok_or_else(|| gone(run.id))?;
        let writer =
            Writer::start(&core, Arc::clone(&staged), Arc::clone(&watch), true, accepted.next);
        if close {
            writer.note_closed();
        }
        let run = RunInner::new(&core, accepted.id, None, watch, Some(writer), Some(staged));
        core.remember(&run);
        Ok((run, accepted.outputs))
    }

    /// Plans a graph and has the store take it, or finds it there under its name.
    async fn accept(self, graph: Captured, close: bool) -> Result<(Accepted, Arc<RunInner>)> {
        check_queues(&graph.classes)?;
        let core = Arc::clone(self.client.core());
        let plan = plan(graph)?;
        let mut hash = blake3::Hasher::new();
        hash.update(&plan.digest).update(&[self.policy as u8]);
        let digest = *hash.finalize().as_bytes();
        let mut tries = ACCEPT_TRIES;
        let (id, spent, numbered, staged, watch) = loop {
            tries -= 1;
            let later = self.name.is_none() && plan.blobs.is_empty() && !plan.nodes.is_empty();
            let (id, attached, open) = self.open_as(digest, later).await?;
            let watch = if attached { Watch::new(id, &core) } else { Watch::of_new_run(id, &core) };
            let staged = core.remember_staged(id, open, later, &watch).await?;
            // A run that takes no more segments has them all, most likely; of another one a client
            // that died may have staged a part. Staging what is there changes nothing.
            let status =
                if attached { core.persist_in(|| core.store.status(id)).await? } else { None };
            let state = status.map(|status| status.state);
            let complete = state.is_some_and(|state| state != RunState::Open);
            let spent = matches!(state, Some(RunState::Failed | RunState::Cancelled));
            match stage_plan(&core, &staged, &plan, complete, close).await {
                Ok(numbered)
                    if tries > 0 && numbered.over && is_part(&core, id, &numbered).await? =>
                {
                    tracing::info!(run = %id, "closed with a part of its graph: made anew");
                    self.client.attach_id(id).forget().await?;
                }
                Ok(numbered) => break (id, spent, numbered, staged, watch),
                // Somebody who came later has found it to be such a part.
                Err(error) if tries > 0 && *error.kind() == ErrorKind::Gone => {}
                Err(error) => {
                    if !attached {
                        // Nobody has accepted it. What cannot be deleted now, its lease will end.
                        core.watchman.delete(&core, id);
                        let _ = core.store.purge(id).await;
                    }
                    return Err(error);
                }
            }
        };
        let outputs = plan.outputs.iter().map(|output| numbered.ids[*output as usize]).collect();
        let run = RunInner::new(&core, id, self.name, watch, None, Some(staged));
        Ok((Accepted { id, outputs, next: numbered.next, spent }, run))
    }

    /// Opens the run in the store, unless that is to be done `later`; its id, whether it was there, and
    /// how to open it then, or again.
    async fn open_as(&self, digest: [u8; 32], later: bool) -> Result<(RunId, bool, Open)> {
        let bytes: usize = self.header.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > RUN_HEADER_BYTES_MAX {
            let message = format!(
                "the header of the run has {bytes} bytes, more than the {RUN_HEADER_BYTES_MAX} \
                 allowed: pass data as an argument"
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let retention = match (self.retention, &self.name) {
            (Some(retention), _) => retention,
            (None, Some(_)) => RUN_RETENTION,
            (None, None) => UNNAMED_RETENTION,
        };
        let open = Open {
            name: self.name.clone(),
            digest,
            policy: self.policy,
            header: self.header.clone(),
            client_lease_ms: millis(CLIENT_LEASE),
            retention_ms: millis(retention),
        };
        let core = self.client.core();
        // The same id for every try: one whose answer was lost must not leave a second run behind.
        let id = clock::new_run_id();
        if later {
            return Ok((id, false, open));
        }
        match core.persist_in(|| core.store.open(id, &open)).await? {
            Opened::Created => Ok((id, false, open)),
            Opened::Attached(other) => Ok((other, other != id, open)),
            Opened::Conflict(other) => {
                let name = self.name.as_deref().unwrap_or_default();
                let message = format!(
                    "the name {name:?} stands for run {other}, which has another graph or other \
                     options: choose another name, or forget that run"
                );
                Err(Error::new(ErrorKind::Conflict, message))
            }
        }
    }
}

/// A plan as tasks of a run.
struct Numbered {
    /// The calls' tasks.
    ids: Vec<TaskId>,
    /// The number of the segment after the last.
    next: u32,
    /// Whether the run took no more segments before all of them were offered.
    over: bool,
}

/// Stages a plan and closes its run, unless that is complete.
async fn stage_plan(
    core: &Core,
    staged: &Staged,
    plan: &Plan,
    complete: bool,
    close: bool,
) -> Result<Numbered> {
    let (mut over, mut closed) = (complete, false);
    let blobs = plan.blobs.iter().map(|(digest, bytes)| (*digest, bytes.clone()));
    let mut blobs: Vec<_> = blobs.collect();
    blobs.sort_unstable_by_key(|(digest, _)| *digest);
    if !over {
        core.check_capable(&core.unchecked(&plan.classes)).await?;
        if plan.nodes.len() > SEGMENT_TASKS_MAX {
            core.levels.expect(staged.run, plan.nodes.len());
        }
    }
    let mut cut = plan.cut(0);
    let mut next = 0;
    while let Some(segment) = cut.next_segment()? {
        next = segment.number + 1;
        // The first segment takes all large arguments along.
        let blobs = std::mem::take(&mut blobs);
        if over {
            staged.keep(segment, blobs);
            continue;
        }
        let last = close && cut.is_done();
        match core.stage_again_if_lost(staged, segment, blobs, last).await {
            // The run has failed or was cancelled while it was staged: its results say why.
            Err(error) if *error.kind() == ErrorKind::Closed => over = true,
            told => closed = told?,
        }
        let spent = cut.take_spent();
        staged.unpin(&spent);
        for tasks in spent.chunks(UNPIN_TASKS_MAX) {
            core.persist_in(|| core.store.unpin(staged.run, tasks)).await?;
        }
    }
    if close && over {
        staged.keep_closed();
    } else if close && !closed {
        core.close_staged(staged).await?;
    }
    Ok(Numbered { ids: cut.into_ids(), next, over })
}

/// Whether a run has only a part of its graph, and will never have more: its client was silent for
/// so long that a worker has closed it. What has failed or was cancelled says so by itself.
async fn is_part(core: &Core, run: RunId, numbered: &Numbered) -> Result<bool> {
    let Some(last) = numbered.ids.iter().max() else { return Ok(false) };
    let Some(status) = core.persist_in(|| core.store.status(run)).await? else { return Ok(true) };
    let closed = matches!(status.state, RunState::Closed | RunState::Done | RunState::Purging);
    Ok(closed && core.inspect(run, *last).await?.is_none())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

/// The open run whose handles a graph uses.
fn within(core: &Core, run: RunId) -> Result<Run> {
    core.open_run(run).map(Run::of).ok_or_else(|| {
        let message = format!(
            "the graph uses a handle of run {run}, which takes no calls from this client: keep the \
             results with `persist`, or gather them and pass the values"
        );
        Error::new(ErrorKind::Closed, message)
    })
}

impl Run {
    /// Computes the outputs in this run, which takes calls, and returns their values.
    pub async fn compute<O: Outputs>(&self, outputs: O) -> Result<O::Values> {
        self.compute_captured(captured(&outputs)?, &outputs).await
    }

    /// Starts computing the outputs in this run, which takes calls; handles of them.
    pub async fn persist<O: Outputs>(&self, outputs: O) -> Result<O::Handles> {
        let tasks = self.add(captured(&outputs)?).await?;
        Ok(outputs.handles(&mut Tasks::new(Arc::clone(self.inner()), tasks)))
    }

    async fn compute_captured<O: Outputs>(
        &self,
        graph: Captured,
        outputs: &O,
    ) -> Result<O::Values> {
        let tasks = self.add(graph).await?;
        // The handles keep the results until they are read.
        let _handles = outputs.handles(&mut Tasks::new(Arc::clone(self.inner()), tasks.clone()));
        let results = self.inner().values(&tasks).await;
        outputs.values(&mut Results::new(&tasks, results))
    }

    /// Adds a graph; the tasks of its outputs.
    async fn add(&self, graph: Captured) -> Result<Vec<TaskId>> {
        if let Some(other) = graph.run.filter(|run| *run != self.id()) {
            let message = format!("the graph uses a handle of run {other}, not of this run");
            return Err(Error::new(ErrorKind::Config, message));
        }
        self.inner().writer()?.submit(Entry::new(graph, true)?).await
    }
}
