//! A segment becomes part of its run: written, activated, rung.
//!
//! From the answer of `activate` on, the segment needs no client. What is published only makes it
//! start sooner: whoever looks after the run finds its ready tasks in the store.
//!
//! A few tasks that need nothing are rung for while they are being written: who runs one commits
//! it later than the store has heard of it, and should the message be faster, commits it again. So
//! one result takes one round trip less. If they cannot be written, some may have run in vain.

use std::collections::BTreeMap;
use std::sync::Arc;

use bolthole_broker::args::BlobDigest;
use bolthole_broker::failpoint::{self, Point};
use bolthole_broker::graph::Segment;
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits::{ACTIVATE_EDGES_MAX, CHUNK_TASKS, PARCEL_TASKS_MAX};
use bolthole_broker::parcel::{Addressed, Parcel};
use bolthole_broker::queue::{Lane, Queue, QueueName, Route};
use bolthole_broker::run::{Activate, Activated, Header, Open, Ready, Stage};
use bolthole_broker::store::Epoch;
use bolthole_broker::task::{TaskClass, TaskKind, TaskOptions};
use bytes::Bytes;
use futures_util::future;

use crate::core::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::gone;

/// Parcels that a segment's ready tasks are spread over, if there are as many: enough for every
/// slot of a few workers to get one, since nobody knows yet how long a task takes.
const PARCELS_WANTED: usize = 128;

/// What goes to the store with the first slice of a segment's edges.
struct First<'a> {
    /// To open the run, which is not there yet.
    open: Option<&'a Open>,
    stage: &'a Stage,
    /// It is the run's last segment, and this its only slice.
    close: bool,
}

/// Segments whose messages the broker has not all confirmed, while the next ones are staged.
pub(crate) const RINGING_MAX: usize = 2;

impl Core {
    /// Stores large arguments, before the segment that uses them is staged.
    pub(crate) async fn put_blobs(&self, run: RunId, blobs: &[(BlobDigest, Bytes)]) -> Result<()> {
        for (digest, bytes) in blobs {
            self.persist_in(|| self.store.put_blob(run, *digest, bytes.clone())).await?;
        }
        Ok(())
    }

    /// Makes a segment part of the run, with the large arguments that it needs, and rings for what is
    /// ready; opens the run first if that is still to be done. With `close` no more segments will
    /// come; whether the store has been told. May be repeated.
    pub(crate) async fn stage(
        &self,
        run: RunId,
        open: &Open,
        unopened: bool,
        segment: &Segment,
        blobs: &[(BlobDigest, Bytes)],
        close: bool,
    ) -> Result<bool> {
        let stage = Stage {
            segment: segment.number,
            digest: segment.digest,
            pending: segment.pending.clone(),
            consumers: segment.consumers.clone(),
            chunks: segment.chunks.clone(),
        };
        failpoint::reach(Point::StageBefore).await;
        // A store that comes back without the arguments must be without the segment, too.
        while !blobs.is_empty() {
            let life = self.epoch_now().await?;
            self.put_blobs(run, blobs).await?;
            self.persist_in(|| self.store.stage(run, &stage)).await?;
            if self.epoch_now().await? == life {
                self.begin(run, &open.header, segment, None).await?;
                return Ok(false);
            }
        }
        let open_first = unopened.then_some(open);
        let close = close && segment.cross.len() <= ACTIVATE_EDGES_MAX;
        let first = First { open: open_first, stage: &stage, close };
        self.begin(run, &open.header, segment, Some(first)).await?;
        Ok(close)
    }

    /// Makes a segment a part of the run; with the first slice goes what else is still to be done.
    async fn begin(
        &self,
        run: RunId,
        header: &Header,
        segment: &Segment,
        first: Option<First<'_>>,
    ) -> Result<()> {
        failpoint::reach(Point::ActivateBeforeSend).await;
        let opens = first.as_ref().is_some_and(|first| first.open.is_some());
        if opens && is_rung_early(segment) {
            // In this order: the store is to hear of it first.
            let activating = self.activate(run, segment, first);
            let ringing = self.ring(run, header, segment, &segment.sources);
            let (ready, ()) = future::join(activating, ringing).await;
            ready?;
            failpoint::reach(Point::ActivateAfterReply).await;
            return Ok(());
        }
        let ready = self.activate(run, segment, first).await?;
        failpoint::reach(Point::ActivateAfterReply).await;
        self.ring(run, header, segment, &in_order(segment, &ready)).await;
        Ok(())
    }

    /// Registers the segment's edges slice by slice; the indexes of what is ready.
    async fn activate(
        &self,
        run: RunId,
        segment: &Segment,
        mut first: Option<First<'_>>,
    ) -> Result<Vec<u16>> {
        let mut cursor = 0_u32;
        loop {
            let rest = segment.cross.get(cursor as usize..).unwrap_or_default();
            let edges = &rest[..rest.len().min(ACTIVATE_EDGES_MAX)];
            let activate = Activate {
                segment: segment.number,
                digest: segment.digest,
                cursor,
                edges: edges.to_vec(),
                last: edges.len() == rest.len(),
            };
            let activated = match first.take() {
                Some(First { open, stage, close }) => {
                    let begin = || self.store.begin(run, open, stage, &activate, close);
                    self.persist_in(begin).await?
                }
                None => self.persist_in(|| self.store.activate(run, &activate)).await?,
            };
            match activated {
                Activated::Active { ready } => return Ok(ready),
                // An earlier try was answered, and the answer lost; or another client was here.
                Activated::Already => {
                    let ready = self.persist_in(|| self.store.ready(run, segment.number)).await?;
                    return Ok(ready.iter().map(|ready| ready.task.index()).collect());
                }
                Activated::More { cursor: next } if next as usize > segment.cross.len() => {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!("segment {} of run {run} was staged differently", segment.number),
                    ));
                }
                Activated::More { cursor: next } => cursor = next,
            }
        }
    }

    /// Publishes ready tasks. What cannot be published is found in the store by the workers.
    async fn ring(&self, run: RunId, header: &Header, segment: &Segment, ready: &[u16]) {
        let size = parcel_size(ready.len(), self.tasks_per_parcel);
        let parcels = match self.epoch().await {
            Ok(epoch) => segment.parcels(run, &epoch, header, ready, size).map_err(Error::from),
            Err(error) => Err(error),
        };
        match parcels {
            Ok(parcels) => self.ring_with(run, self.addressed(run, Lane::Lo, parcels)).await,
            Err(error) => {
                tracing::warn!(%run, %error, "the graph is accepted and not yet rung for");
            }
        }
    }

    /// Hands messages over, and leaves it to a task of its own to hear what became of them: nothing
    /// depends on that, and an answer to the graph may come sooner.
    async fn ring_with(&self, run: RunId, messages: Vec<(Route, Bytes)>) {
        // Nobody closes it.
        let Ok(turn) = Arc::clone(&self.ringing).acquire_owned().await else { return };
        let (queue, leaving) = (self.queue.clone(), self.leaving.token());
        let mut ringing = Box::pin(async move {
            publish(&queue, run, messages).await;
            failpoint::reach(Point::SubmitPublished).await;
            drop((turn, leaving));
        });
        // What the first poll hands over is on its way, even when the program ends now.
        if futures_util::poll!(&mut ringing).is_pending() {
            self.runtime.spawn(ringing);
        }
    }

    /// Publishes released tasks, without their descriptors.
    pub(crate) async fn ring_for(&self, run: RunId, ready: &[Ready]) -> Result<()> {
        if ready.is_empty() {
            return Ok(());
        }
        let tasks: Vec<TaskId> = ready.iter().map(|ready| ready.task).collect();
        let mut described = self.persist_in(|| self.descriptions(run, &tasks)).await?;
        let mut queues: BTreeMap<String, Vec<Ready>> = BTreeMap::new();
        for ready in ready {
            let (_, class) = described.remove(&ready.task).ok_or_else(|| gone(run))?;
            queues.entry(class.options.queue).or_default().push(*ready);
        }
        match self.epoch().await {
            Ok(epoch) => {
                for (queue, ready) in queues {
                    self.ring_as_of(&epoch, run, &queue, &ready).await;
                }
            }
            Err(error) => tracing::warn!(%run, %error, "released tasks are not yet rung for"),
        }
        Ok(())
    }

    /// Publishes tasks of one user queue that may be on their way or running already: no store has
    /// an empty epoch, so that receivers ask where the tasks stand before they run them.
    pub(crate) async fn ring_doubtful(&self, run: RunId, queue: &str, ready: &[Ready]) {
        self.ring_as_of(&Epoch(String::new()), run, queue, ready).await;
    }

    async fn ring_as_of(&self, epoch: &Epoch, run: RunId, queue: &str, ready: &[Ready]) {
        let size = parcel_size(ready.len(), self.tasks_per_parcel);
        match Parcel::pack(run, epoch, ready, |_| None, size) {
            Ok(parcels) => {
                let address = |bytes| Addressed { queue: queue.to_owned(), tasks: size, bytes };
                let parcels = parcels.into_iter().map(address).collect();
                publish(&self.queue, run, self.addressed(run, Lane::Hi, parcels)).await;
            }
            Err(error) => tracing::warn!(%run, %error, "released tasks are not yet rung for"),
        }
    }

    fn addressed(&self, run: RunId, lane: Lane, parcels: Vec<Addressed>) -> Vec<(Route, Bytes)> {
        let mut messages = Vec::with_capacity(parcels.len());
        let level = self.levels.of_next(run, parcels.len());
        for parcel in parcels {
            match QueueName::new(&parcel.queue) {
                Ok(queue) => messages.push((Route { queue, lane, level }, parcel.bytes)),
                Err(error) => tracing::error!(%run, %error, "no queue of this name can exist"),
            }
        }
        messages
    }
}

async fn publish(queue: &Queue, run: RunId, messages: Vec<(Route, Bytes)>) {
    for published in queue.publish_all(messages).await {
        if let Err(error) = published {
            // Its tasks wait until a worker looks after the run.
            tracing::warn!(%run, %error, "a parcel was not published");
        }
    }
}

/// Whether all tasks of the segment may run before the store has heard of it: for none of them is it
/// asked before it runs, or soon afterwards for what is to run next.
fn is_rung_early(segment: &Segment) -> bool {
    let tasks = segment.sources.len();
    if tasks > CHUNK_TASKS || tasks != segment.pending.len() {
        return false;
    }
    let plain = |class: &TaskClass| {
        let TaskOptions { concurrency, not_before_ms, expires_ms, .. } = &class.options;
        let is_bound = concurrency.is_some() || not_before_ms.is_some() || expires_ms.is_some();
        class.kind != TaskKind::Effect && !is_bound
    };
    segment.chunk_of(0).is_ok_and(|chunk| chunk.classes.iter().all(plain))
}

/// How many of so many ready tasks one message names, `most` at most.
fn parcel_size(ready: usize, most: usize) -> usize {
    ready.div_ceil(PARCELS_WANTED).clamp(1, most.clamp(1, PARCEL_TASKS_MAX))
}

/// Ready tasks in the order in which they are to be run: sources as the segment says, then those
/// that only waited for earlier segments.
fn in_order(segment: &Segment, ready: &[u16]) -> Vec<u16> {
    if ready == segment.sources {
        return ready.to_vec();
    }
    let is_ready = |index: &u16| ready.binary_search(index).is_ok();
    let mut ordered: Vec<u16> = segment.sources.iter().copied().filter(is_ready).collect();
    let mut sources = segment.sources.clone();
    sources.sort_unstable();
    ordered.extend(ready.iter().filter(|index| sources.binary_search(index).is_err()));
    ordered
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]
mod tests {
    use bolthole_broker::graph::SegmentBuilder;

    use super::*;

    #[test]
    fn parcels_grow_with_the_graph_up_to_their_bound() {
        let sizes = [0, 1, 128, 129, 1_000_000].map(|ready| parcel_size(ready, PARCEL_TASKS_MAX));
        assert_eq!(sizes, [1, 1, 1, 2, PARCEL_TASKS_MAX]);
    }

    #[test]
    fn a_client_may_ask_for_smaller_parcels_only() {
        let sizes = [0, 1, 7, 1_000].map(|most| parcel_size(1_000_000, most));
        assert_eq!(sizes, [1, 1, 7, PARCEL_TASKS_MAX]);
    }

    /// A segment of `tasks` of a class, each of which needs the one before if they are a `chain`.
    fn segment(tasks: usize, chain: bool, change: impl FnOnce(&mut TaskClass)) -> Segment {
        let mut class = TaskClass { kind: TaskKind::Repeatable, ..TaskClass::relay("default") };
        change(&mut class);
        let mut builder = SegmentBuilder::new(0);
        let mut last = None;
        for _ in 0..tasks {
            let inputs: Vec<TaskId> = last.filter(|_| chain).into_iter().collect();
            last = Some(builder.push(&class, &inputs, &[], true).unwrap());
        }
        builder.take_segment().unwrap()
    }

    #[test]
    fn few_plain_tasks_that_need_nothing_are_rung_for_early() {
        let plain = |_: &mut TaskClass| {};
        assert!(is_rung_early(&segment(1, false, plain)));
        assert!(is_rung_early(&segment(CHUNK_TASKS, false, plain)));
        assert!(!is_rung_early(&segment(CHUNK_TASKS + 1, false, plain)));
        assert!(!is_rung_early(&segment(2, true, plain)));
        assert!(!is_rung_early(&segment(1, false, |class| class.kind = TaskKind::Effect)));
        let bounds: [fn(&mut TaskOptions); 3] = [
            |options| options.concurrency = Some(1),
            |options| options.not_before_ms = Some(1),
            |options| options.expires_ms = Some(1),
        ];
        for bound in bounds {
            assert!(!is_rung_early(&segment(1, false, |class| bound(&mut class.options))));
        }
    }
}
