//! Staging a captured graph by hand, for tests of workers that need no client.

use std::time::Duration;

use anyhow::{Context, ensure};
use bolthole_broker::clock;
use bolthole_broker::graph::{Captured, plan};
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::queue::{Queue, QueueName, Route};
use bolthole_broker::run::{Activate, Activated, Open, Stage, TaskStatus};
use bolthole_broker::state::{FailurePolicy, RunState};
use bolthole_broker::store::{EventCursor, Store};

/// Stages a graph as a closed run and rings for its sources; the run and its outputs.
pub async fn submit(
    store: &Store,
    queue: &Queue,
    captured: Captured,
    policy: FailurePolicy,
) -> anyhow::Result<(RunId, Vec<TaskId>)> {
    let (run, outputs) = submit_open(store, queue, captured, policy).await?;
    store.close(run).await?;
    Ok((run, outputs))
}

/// Stages a graph as a run that stays open and rings for its sources; the run and its outputs.
pub async fn submit_open(
    store: &Store,
    queue: &Queue,
    captured: Captured,
    policy: FailurePolicy,
) -> anyhow::Result<(RunId, Vec<TaskId>)> {
    let run = clock::new_run_id();
    let open = Open {
        name: None,
        digest: [0; 32],
        policy,
        header: [("greeting".to_owned(), "hello".to_owned())].into(),
        client_lease_ms: 60_000,
        retention_ms: 60_000,
    };
    store.open(run, &open).await?;
    let plan = plan(captured)?;
    for (digest, bytes) in &plan.blobs {
        store.put_blob(run, *digest, bytes.clone()).await?;
    }
    let mut cut = plan.cut(0);
    let mut parcels = Vec::new();
    let epoch = store.epoch().await?;
    while let Some(segment) = cut.next_segment()? {
        let stage = Stage {
            segment: segment.number,
            digest: segment.digest,
            pending: segment.pending.clone(),
            consumers: segment.consumers.clone(),
            chunks: segment.chunks.clone(),
        };
        store.stage(run, &stage).await?;
        let activate = Activate {
            segment: segment.number,
            digest: segment.digest,
            cursor: 0,
            edges: segment.cross.clone(),
            last: true,
        };
        let Activated::Active { ready } = store.activate(run, &activate).await? else {
            anyhow::bail!("the segment was not activated");
        };
        let spent = cut.take_spent();
        if !spent.is_empty() {
            store.unpin(run, &spent).await?;
        }
        parcels.extend(segment.parcels(run, &epoch, &open.header, &ready, 16)?);
    }
    for parcel in parcels {
        let route = Route::lo(&QueueName::new(&parcel.queue)?);
        queue.publish(&route, parcel.bytes).await?;
    }
    let outputs = plan.outputs.iter().filter_map(|place| cut.id(*place)).collect();
    Ok((run, outputs))
}

/// Waits for the end of a run; where it stands then.
pub async fn ended(store: &Store, run: RunId, patience: Duration) -> anyhow::Result<RunState> {
    let wait = async {
        let mut cursor = EventCursor::default();
        loop {
            let events = store.events(run, &cursor, Duration::from_secs(1)).await?;
            let state = events.run.context("the run is gone")?;
            if !state.is_running() {
                return Ok(state);
            }
            cursor = events.cursor;
        }
    };
    tokio::time::timeout(patience, wait).await.context("the run did not end in time")?
}

/// What the store knows of tasks that must be there.
pub async fn statuses(
    store: &Store,
    run: RunId,
    tasks: &[TaskId],
) -> anyhow::Result<Vec<TaskStatus>> {
    let statuses = store.inspect(run, tasks).await?;
    ensure!(statuses.iter().all(Option::is_some), "a task is not there");
    Ok(statuses.into_iter().flatten().collect())
}
