//! Tasks that a task submits: staged under a number of their own, started by the commit of the
//! attempt that submitted them, dropped with it if it loses.

use std::time::Duration;

use bolthole_broker::clock;
use bolthole_broker::error::TaskErrorKind;
use bolthole_broker::graph::{Captured, Plan, plan};
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::run::{Refused, SPAWNED_SEGMENTS, SegmentDigest, Stage};
use bolthole_broker::state::PINNED;
use bolthole_broker::store::{Error, Store};
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::flight::Ended;
use crate::slots::failed;

/// Pauses between two tries to store what a task submits.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A staged segment: its number and content.
pub(crate) type Spawned = (u32, SegmentDigest);

/// Stages what tasks submit. Slots wait for it.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    pub(crate) store: Store,
    /// The runtime for I/O.
    pub(crate) io: Handle,
}

/// Submitted tasks were not taken.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// The graph is at fault.
    Graph(String),
    /// The store is.
    Store(Error),
}

impl From<SpawnError> for Ended {
    fn from(error: SpawnError) -> Self {
        let kind = TaskErrorKind::Unusable;
        match error {
            SpawnError::Graph(reason) => {
                failed(kind, &format!("the tasks it submitted cannot be taken: {reason}"), false)
            }
            SpawnError::Store(error) => {
                let text = format!("the tasks it submitted cannot be stored: {error}");
                failed(kind, &text, false)
            }
        }
    }
}

impl Spawner {
    /// Stages `submitted`, and `forwarded`, whose output is the task that the attempt hands on.
    pub(crate) async fn stage(
        &self,
        run: RunId,
        submitted: Vec<Captured>,
        forwarded: Option<Captured>,
    ) -> Result<(Spawned, Option<TaskId>), SpawnError> {
        let forwards = forwarded.is_some();
        let mut all = Captured::default();
        // The forwarded graph comes first, so that its output is the first output.
        for captured in forwarded.into_iter().chain(submitted) {
            append(&mut all, captured);
        }
        let plan = plan(all).map_err(|error| SpawnError::Graph(error.to_string()))?;
        if plan.nodes.iter().any(|node| !node.earlier.is_empty()) {
            let reason = "they use handles; pass the values, or make the calls with `delayed`";
            return Err(SpawnError::Graph(reason.to_owned()));
        }
        let blobs = plan.blobs.iter().map(|(digest, bytes)| (*digest, bytes.clone()));
        let mut blobs: Vec<_> = blobs.collect();
        blobs.sort_unstable_by_key(|(digest, _)| *digest);
        for (digest, bytes) in blobs {
            persist(|| self.store.put_blob(run, digest, bytes.clone())).await?;
        }
        loop {
            // Drawn, not counted: a store that has lost its last second would hand out a number
            // twice, for two contents, and what workers know of the first would pass for the second.
            let number = SPAWNED_SEGMENTS | u32::from_be_bytes(clock::random_bytes());
            let (stage, output) = staged(&plan, number)?;
            match persist(|| self.store.stage(run, &stage)).await {
                Err(SpawnError::Store(Error::Refused(Refused::Conflict))) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    return Ok(((stage.segment, stage.digest), output.filter(|_| forwards)));
                }
            }
        }
    }
}

/// The tasks as a segment of this number, and the first output.
fn staged(plan: &Plan, number: u32) -> Result<(Stage, Option<TaskId>), SpawnError> {
    let mut cut = plan.cut(number);
    let segment = cut.next_segment().map_err(|error| SpawnError::Graph(error.to_string()))?;
    let Some(segment) = segment else {
        return Err(SpawnError::Graph("there are none".to_owned()));
    };
    let more = cut.next_segment().map_err(|error| SpawnError::Graph(error.to_string()))?;
    if more.is_some() {
        let reason = "they are more than fit into one segment; submit fewer from one task";
        return Err(SpawnError::Graph(reason.to_owned()));
    }
    let output = plan.outputs.first().and_then(|place| cut.id(*place));
    let stage = Stage {
        segment: segment.number,
        digest: segment.digest,
        pending: segment.pending,
        // Nobody has a handle of them.
        consumers: segment.consumers.iter().map(|count| count & !PINNED).collect(),
        chunks: segment.chunks,
    };
    Ok((stage, output))
}

/// Asks the store until it answers: that it is away or full is no fault of the task's, whose body has
/// done its work. Its slot waits, as it would for a commit.
async fn persist<T, F>(ask: impl Fn() -> F) -> Result<T, SpawnError>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut pause = PAUSE;
    loop {
        match ask().await {
            Err(error) if error.is_retryable() => {
                tracing::warn!(%error, "submitted tasks are not stored yet");
                sleep(pause).await;
                pause = (2 * pause).min(PAUSE_MAX);
            }
            answer => return answer.map_err(SpawnError::Store),
        }
    }
}

/// Adds the calls of another graph behind those of `all`.
fn append(all: &mut Captured, mut other: Captured) {
    let calls = u32::try_from(all.nodes.len()).unwrap_or(u32::MAX);
    let classes = u32::try_from(all.classes.len()).unwrap_or(u32::MAX);
    for node in &mut other.nodes {
        node.class += classes;
        node.inputs.iter_mut().for_each(|input| *input += calls);
    }
    all.run = all.run.or(other.run);
    all.classes.append(&mut other.classes);
    all.nodes.append(&mut other.nodes);
    all.outputs.extend(other.outputs.iter().map(|output| output + calls));
    all.blobs.extend(other.blobs);
}
